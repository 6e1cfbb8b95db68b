"""Organisations and users, for operators."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel

from shellwego.control.api import answers, paging
from shellwego.control.api.calls import OnceCall, OperatorCall, RequestCredential, caller_of
from shellwego.control.api.parts import parts_of
from shellwego.control.api.strict_json import StrictRoute
from shellwego.control.services import organisations
from shellwego.control.services.callers import ensure_operator
from shellwego.core.errors import InvalidField
from shellwego.protocol import public

router = APIRouter(prefix="/v1", tags=["organisations"], route_class=StrictRoute)


@router.get("/organisations", operation_id="listOrganisations")
async def list_organisations(
    call: OperatorCall, limit: paging.Limit = paging.DEFAULT_LIMIT, cursor: paging.Cursor = None
) -> public.Page[public.Organisation]:
    """In the order of names."""
    rows = await call.work.organisations.page(limit=limit + 1, after=paging.text_key(cursor))
    shown, last = paging.cut(rows, limit)
    return public.Page(
        items=[public.Organisation(id=o.id, name=o.name, created_at=o.created_at) for o in shown],
        next_cursor=paging.cursor_of(last.name) if last is not None else None,
    )


@router.post("/organisations", operation_id="createOrganisation", status_code=201, response_model=public.Organisation)
async def create_organisation(call: OnceCall, body: public.OrganisationCreate) -> object:
    """A tenant of this cloud."""

    async def act() -> BaseModel:
        made = await organisations.create_organisation(call.work, call.caller, body.name)
        return public.Organisation(id=made.id, name=made.name, created_at=made.created_at)

    return await call.once(act)


@router.get("/users", operation_id="listUsers")
async def list_users(
    call: OperatorCall, limit: paging.Limit = paging.DEFAULT_LIMIT, cursor: paging.Cursor = None
) -> public.Page[public.User]:
    """In the order of addresses."""
    rows = await call.work.for_the_cloud().users.page(limit=limit + 1, after=paging.text_key(cursor))
    shown, last = paging.cut(rows, limit)
    return public.Page(
        items=[answers.user(user) for user in shown],
        next_cursor=paging.cursor_of(last.email) if last is not None else None,
    )


async def hashed_password(request: Request, body: public.UserCreate, credential: RequestCredential) -> str:
    """
    Before the transaction begins: hashing is slow on purpose, and writers wait for each other. For operators only, or
    it would be a way to keep this machine busy.
    """
    parts = parts_of(request)
    async with parts.store.reading() as work:
        caller, _ = await caller_of(work, credential)
    ensure_operator(caller)
    if not body.email.isprintable() or not body.email.isascii():
        raise InvalidField("email", "is not an address.")
    return await parts.passwords.hash(body.password)


@router.post("/users", operation_id="createUser", status_code=201, response_model=public.User)
async def create_user(
    body: public.UserCreate,
    password_hash: Annotated[str, Depends(hashed_password)],
    call: OnceCall,
) -> object:
    """A person of one organisation."""

    async def act() -> BaseModel:
        user, _ = await organisations.create_user(call.work, call.caller, body.email, password_hash, body.organisation)
        return answers.user(user)

    return await call.once(act)
