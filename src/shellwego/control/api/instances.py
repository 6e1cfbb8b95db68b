"""Instances: what runs, where, and how it fares."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from shellwego.control.api import answers, paging
from shellwego.control.api.calls import AnyCall
from shellwego.control.api.strict_json import StrictRoute
from shellwego.protocol import public

router = APIRouter(prefix="/v1/instances", tags=["instances"], route_class=StrictRoute)


@router.get("", operation_id="listInstances")
async def list_instances(
    call: AnyCall,
    limit: paging.Limit = paging.DEFAULT_LIMIT,
    cursor: paging.Cursor = None,
    app: Annotated[str | None, Query(max_length=63, description="Only of this app, by name or id.")] = None,
) -> public.Page[public.Instance]:
    """Those that aren't gone, newest first."""
    found = await call.tenant.apps.named(app) if app is not None else None
    rows = await call.tenant.instances.page(
        limit=limit + 1, before=paging.time_key(cursor), app=found.id if found is not None else None
    )
    shown, last = paging.cut(rows, limit)
    return public.Page(
        items=await answers.instances(call.work, call.tenant, shown, call.work.now),
        next_cursor=paging.cursor_of(last.created_at, last.id) if last is not None else None,
    )


@router.get("/{instance}", operation_id="getInstance")
async def get_instance(call: AnyCall, instance: str) -> public.Instance:
    """Also one that is gone, for as long as it is remembered."""
    found = await call.tenant.instances.get(instance)
    return (await answers.instances(call.work, call.tenant, [found], call.work.now))[0]
