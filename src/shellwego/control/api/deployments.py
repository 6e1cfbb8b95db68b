"""Deployments: asking for one, and watching it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from shellwego.control.api import answers, paging, sse
from shellwego.control.api.calls import AnyCall, OnceCall, RequestCredential, caller_of
from shellwego.control.api.deployment_events import Position, frames
from shellwego.control.api.parts import parts_of
from shellwego.control.api.strict_json import StrictRoute
from shellwego.control.services import deployments
from shellwego.protocol import public

router = APIRouter(prefix="/v1/apps/{app}/deployments", tags=["deployments"], route_class=StrictRoute)


@router.post("", operation_id="createDeployment", status_code=202, response_model=public.Deployment)
async def create_deployment(call: OnceCall, app: str, body: public.DeploymentCreate) -> object:
    """Taken down, not done: watch its events, or read it again. A newer one takes the place of one under way."""

    async def act() -> BaseModel:
        made = await deployments.create(call.work, call.parts.kms, call.caller, app, body)
        return await answers.deployment(call.tenant, made)

    return await call.once(act)


@router.get("", operation_id="listDeployments")
async def list_deployments(
    call: AnyCall, app: str, limit: paging.Limit = paging.DEFAULT_LIMIT, cursor: paging.Cursor = None
) -> public.Page[public.Deployment]:
    """Newest first."""
    found = await call.tenant.apps.named(app)
    rows = await call.tenant.deployments.page(found.id, limit=limit + 1, before=paging.time_key(cursor))
    shown, last = paging.cut(rows, limit)
    return public.Page(
        items=await answers.deployments(call.tenant, shown),
        next_cursor=paging.cursor_of(last.created_at, last.id) if last is not None else None,
    )


@router.get("/{deployment}", operation_id="getDeployment")
async def get_deployment(call: AnyCall, app: str, deployment: str) -> public.Deployment:
    """How far it is, or how it ended."""
    found = await deployments.get(call.tenant, await call.tenant.apps.named(app), deployment)
    return await answers.deployment(call.tenant, found)


@router.post("/{deployment}/cancel", operation_id="cancelDeployment")
async def cancel_deployment(call: AnyCall, app: str, deployment: str) -> public.Deployment:
    """Give it up; the release before goes on serving."""
    ended = await deployments.cancel(call.work, call.caller, app, deployment)
    return await answers.deployment(call.tenant, ended)


@router.get(
    "/{deployment}/events",
    operation_id="watchDeployment",
    response_class=StreamingResponse,
    responses={200: {"content": {sse.MEDIA_TYPE: {"schema": {"type": "string"}}}, "description": "DeploymentEvents."}},
)
async def watch_deployment(
    request: Request,
    app: str,
    deployment: str,
    credential: RequestCredential,
    last_event_id: Annotated[str | None, Header(max_length=64)] = None,
) -> StreamingResponse:
    """
    Every event from the first to `finished`, as server-sent events whose data are DeploymentEvents: what happened, then
    what happens. `Last-Event-ID` goes on from there.
    """
    parts = parts_of(request)
    position = Position.parse(last_event_id)
    async with parts.store.reading() as work:
        caller, _ = await caller_of(work, credential)
        tenant = work.for_organisation(caller.organisation)
        found = await deployments.get(tenant, await tenant.apps.named(app), deployment)
    return sse.stream(frames(parts, caller.organisation, found.id, position), parts, credential)
