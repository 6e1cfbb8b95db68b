"""Configuration: the environment of an app's instances. Its values are shown to members of its organisation alone."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel

from shellwego.control.api.calls import AnyCall, Call, OnceCall
from shellwego.control.api.strict_json import StrictRoute
from shellwego.control.services import deployments
from shellwego.control.services.sealing import config_of, pending_config
from shellwego.protocol import public

router = APIRouter(prefix="/v1/apps/{app}/config", tags=["config"], route_class=StrictRoute)


@router.get("", operation_id="getConfig")
async def get_config(call: AnyCall, app: str) -> public.Config:
    """Of the current release, or of the one on its way; before the first, what it will start with."""
    return await _config(call, app)


@router.patch("", operation_id="changeConfig", response_model=public.Config)
async def change_config(call: OnceCall, app: str, body: public.ConfigChange) -> object:
    """One new release with all the changes, and a deployment of it, which the app then names as its newest."""

    async def act() -> BaseModel:
        await deployments.change_config(call.work, call.parts.kms, call.caller, app, body.values)
        return await _config(call, app)

    return await call.once(act)


async def _config(call: Call, reference: str) -> public.Config:
    app = await call.tenant.apps.named(reference)
    under_way = await call.tenant.deployments.unfinished_of(app.id)
    id = under_way.release if under_way is not None and under_way.release is not None else app.current_release
    if id is None:
        return public.Config(values=await pending_config(call.parts.kms, app), release=None)
    release = await call.tenant.releases.get(id)
    return public.Config(values=await config_of(call.parts.kms, release), release=release.label)
