"""One's own API tokens."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel

from shellwego.control.api import answers, paging
from shellwego.control.api.calls import AnyCall, OnceCall
from shellwego.control.api.strict_json import StrictRoute
from shellwego.control.services import tokens
from shellwego.protocol import public

router = APIRouter(prefix="/v1/tokens", tags=["tokens"], route_class=StrictRoute)


@router.get("", operation_id="listTokens")
async def list_tokens(
    call: AnyCall, limit: paging.Limit = paging.DEFAULT_LIMIT, cursor: paging.Cursor = None
) -> public.Page[public.Token]:
    """Newest first. Secrets are never shown again."""
    before = paging.time_key(cursor)
    rows = await call.tenant.tokens.page(user=call.caller.user, limit=limit + 1, before=before)
    shown, last = paging.cut(rows, limit)
    return public.Page(
        items=[answers.token(token) for token in shown],
        next_cursor=paging.cursor_of(last.created_at, last.id) if last is not None else None,
    )


@router.post("", operation_id="createToken", status_code=201, response_model=public.TokenCreated)
async def create_token(call: OnceCall, body: public.TokenCreate) -> object:
    """The secret is in this answer and nowhere else: only its hash is kept."""

    async def act() -> BaseModel:
        secret = tokens.new_secret(call.parts.random_bytes)
        token = await tokens.create(
            call.work, call.caller, body.name, secret=secret, expires_in_days=body.expires_in_days
        )
        return public.TokenCreated(**answers.token(token).model_dump(), secret=secret)

    return await call.once(act)


@router.delete("/{token}", operation_id="revokeToken", status_code=204)
async def revoke_token(call: AnyCall, token: str) -> None:
    """From the next request on it opens nothing."""
    await tokens.revoke(call.work, call.caller, token)
