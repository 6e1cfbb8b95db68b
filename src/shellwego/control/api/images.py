"""Image mappings: which image of this cloud stands in for a public name."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from shellwego.control.api import paging
from shellwego.control.api.calls import AnyCall
from shellwego.control.api.strict_json import StrictRoute
from shellwego.control.services import image_mappings
from shellwego.core.errors import InvalidField
from shellwego.protocol import public

router = APIRouter(prefix="/v1/images/mappings", tags=["images"], route_class=StrictRoute)


@router.get("", operation_id="listImageMappings")
async def list_mappings(
    call: AnyCall, limit: paging.Limit = paging.DEFAULT_LIMIT, cursor: paging.Cursor = None
) -> public.Page[public.ImageMapping]:
    """In the order of patterns. Everybody may read them: a build log names them too."""
    after = paging.text_key(cursor)
    rows = [row for row in await call.work.image_mappings.all() if after is None or row.pattern > after]
    shown, last = paging.cut(rows, limit)
    return public.Page(
        items=[public.ImageMapping(pattern=row.pattern, image=row.image) for row in shown],
        next_cursor=paging.cursor_of(last.pattern) if last is not None else None,
    )


@router.put("", operation_id="putImageMapping")
async def put_mapping(call: AnyCall, body: public.ImageMapping) -> public.ImageMapping:
    """Operators only. In place of one with the same pattern."""
    for field, value in (("pattern", body.pattern), ("image", body.image)):
        if not value.isprintable() or " " in value:
            raise InvalidField(field, "holds spaces or characters that no image name has.")
    row = await image_mappings.put(call.work, call.caller, body.pattern, body.image)
    return public.ImageMapping(pattern=row.pattern, image=row.image)


@router.delete("", operation_id="deleteImageMapping", status_code=204)
async def delete_mapping(
    call: AnyCall, pattern: Annotated[str, Query(min_length=1, max_length=256, pattern=r"^[\x21-\x7e]+$")]
) -> None:
    """Operators only."""
    await image_mappings.remove(call.work, call.caller, pattern)
