"""Releases: what was made, and can be gone back to."""

from __future__ import annotations

from fastapi import APIRouter

from shellwego.control.api import answers, paging
from shellwego.control.api.calls import AnyCall
from shellwego.control.api.strict_json import StrictRoute
from shellwego.control.services.releases import find_release
from shellwego.protocol import public

router = APIRouter(prefix="/v1/apps/{app}/releases", tags=["releases"], route_class=StrictRoute)


@router.get("", operation_id="listReleases")
async def list_releases(
    call: AnyCall, app: str, limit: paging.Limit = paging.DEFAULT_LIMIT, cursor: paging.Cursor = None
) -> public.Page[public.Release]:
    """Newest first."""
    found = await call.tenant.apps.named(app)
    rows = await call.tenant.releases.page(found.id, limit=limit + 1, before=paging.number_key(cursor))
    shown, last = paging.cut(rows, limit)
    return public.Page(
        items=await answers.releases(call.tenant, shown, found),
        next_cursor=paging.cursor_of(last.number) if last is not None else None,
    )


@router.get("/{release}", operation_id="getRelease")
async def get_release(call: AnyCall, app: str, release: str) -> public.Release:
    """By label (`v3`), number or id."""
    found = await call.tenant.apps.named(app)
    [answer] = await answers.releases(call.tenant, [await find_release(call.tenant, found, release)], found)
    return answer
