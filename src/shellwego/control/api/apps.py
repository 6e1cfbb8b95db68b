"""Apps: what there is, what it should be."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel

from shellwego.control.api import answers, paging
from shellwego.control.api.calls import AnyCall, Call, OnceCall
from shellwego.control.api.kept import KeptRoute
from shellwego.control.services import apps, deployments
from shellwego.control.store.records import AppRecord
from shellwego.protocol import public

router = APIRouter(prefix="/v1/apps", tags=["apps"], route_class=KeptRoute)


@router.get("", operation_id="listApps", response_model=public.Page[public.App])
async def list_apps(
    call: AnyCall,
    limit: paging.Limit = paging.DEFAULT_LIMIT,
    cursor: paging.Cursor = None,
    name: Annotated[str | None, Query(max_length=63, pattern=r"^[a-z0-9-]+$", description="Only this one.")] = None,
) -> Response:
    """In the order of names."""
    rows = await call.tenant.apps.page(limit=limit + 1, after=paging.text_key(cursor), name=name)
    shown, last = paging.cut(rows, limit)
    page = public.Page[public.App](
        items=await answers.apps(call.tenant, shown, call.parts.settings),
        next_cursor=paging.cursor_of(last.name) if last is not None else None,
    )
    # Written here rather than by FastAPI, which would check once more what was just made: the longest list of all.
    return Response(page.model_dump_json(), media_type="application/json")


@router.post("", operation_id="createApp", status_code=201, response_model=public.App)
async def create_app(call: OnceCall, body: public.AppCreate) -> object:
    """A name, and nothing that runs yet."""

    async def act() -> BaseModel:
        return answers.new_app(await apps.create_app(call.work, call.caller, body.name), call.parts.settings)

    return await call.once(act)


@router.get("/{app}", operation_id="getApp")
async def get_app(call: AnyCall, app: str) -> public.App:
    """By name or id."""
    return await _answer(call, await call.tenant.apps.named(app))


@router.patch("/{app}", operation_id="updateApp")
async def update_app(call: AnyCall, app: str, body: public.AppUpdate) -> public.App:
    """Scale. Returns once the wish is durable; the instances follow."""
    if body.replicas is None:
        return await _answer(call, await call.tenant.apps.named(app))
    return await _answer(call, await apps.scale(call.work, call.caller, app, body.replicas))


@router.delete("/{app}", operation_id="deleteApp", status_code=202)
async def delete_app(call: AnyCall, app: str) -> public.App:
    """Its instances end first, each with its grace; the name is free once it is gone."""
    return await _answer(call, await apps.delete(call.work, call.caller, app))


@router.post("/{app}/start", operation_id="startApp")
async def start_app(call: AnyCall, app: str) -> public.App:
    """Run its current release again."""
    return await _answer(call, await apps.start(call.work, call.caller, app))


@router.post("/{app}/stop", operation_id="stopApp")
async def stop_app(call: AnyCall, app: str) -> public.App:
    """Run nothing, and keep everything."""
    return await _answer(call, await apps.stop(call.work, call.caller, app))


@router.post("/{app}/restart", operation_id="restartApp", status_code=202, response_model=public.App)
async def restart_app(call: OnceCall, app: str) -> object:
    """Replace every instance by a fresh one of the same release, without a gap. It is a deployment like any other."""

    async def act() -> BaseModel:
        await deployments.create(call.work, call.parts.kms, call.caller, app, public.DeploymentCreate())
        return await _answer(call, await call.tenant.apps.named(app))

    return await call.once(act)


async def _answer(call: Call, app: AppRecord) -> public.App:
    return await answers.app(call.tenant, app, call.parts.settings)
