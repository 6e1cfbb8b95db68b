"""Nodes, for operators."""

from __future__ import annotations

from fastapi import APIRouter

from shellwego.control.api import answers, paging
from shellwego.control.api.calls import OperatorCall
from shellwego.control.api.strict_json import StrictRoute
from shellwego.protocol import public

router = APIRouter(prefix="/v1/nodes", tags=["nodes"], route_class=StrictRoute)


@router.get("", operation_id="listNodes")
async def list_nodes(
    call: OperatorCall, limit: paging.Limit = paging.DEFAULT_LIMIT, cursor: paging.Cursor = None
) -> public.Page[public.Node]:
    """In the order of names; there are few enough to sort here."""
    after = paging.text_key(cursor)
    nodes = sorted(await answers.nodes(call.work, call.work.now), key=lambda node: f"{node.name} {node.id}")
    rows = [node for node in nodes if after is None or f"{node.name} {node.id}" > after]
    shown, last = paging.cut(rows, limit)
    return public.Page(
        items=list(shown), next_cursor=paging.cursor_of(f"{last.name} {last.id}") if last is not None else None
    )


@router.get("/{node}", operation_id="getNode")
async def get_node(call: OperatorCall, node: str) -> public.Node:
    """By name or id."""
    found = await call.work.nodes.named(node)
    return next(node for node in await answers.nodes(call.work, call.work.now) if node.id == found.id)
