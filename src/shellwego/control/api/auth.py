"""Signing in and out."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.requests import HTTPConnection

from shellwego.control.api.calls import AnyCall
from shellwego.control.api.parts import parts_of
from shellwego.control.api.strict_json import StrictRoute
from shellwego.control.services import sessions
from shellwego.core.errors import Unauthenticated
from shellwego.protocol import public

router = APIRouter(prefix="/v1/auth", tags=["auth"], route_class=StrictRoute)


@router.post("/login", operation_id="login")
async def login(request: Request, body: public.Login) -> public.Session:
    """Trade address and password for an access token (15 minutes) and a refresh token (once, 30 days)."""
    parts = parts_of(request)
    address, now = address_of(request), parts.monotonic()
    parts.attempts.ensure_allowed(body.email, address, now=now)
    # Counted before the answer is known: guesses made at once would otherwise all be free.
    parts.attempts.failed(body.email, address, now=now)
    session = await sessions.login(parts.store, parts.issuer, body.email, body.password)
    parts.attempts.succeeded(body.email, address)
    return session


@router.post("/refresh", operation_id="refresh")
async def refresh(request: Request, body: public.Refresh) -> public.Session:
    """Trade a refresh token for a new pair. It works once; a second use ends the whole session."""
    parts = parts_of(request)
    now, address = parts.monotonic(), address_of(request)
    parts.attempts.ensure_allowed("(refresh)", address, now=now)
    try:
        return await sessions.refresh(parts.store, parts.issuer, body.refresh_token)
    except Unauthenticated:
        parts.attempts.failed("(refresh)", address, now=now)
        raise


@router.post("/logout", operation_id="logout", status_code=204)
async def logout(request: Request, body: public.Refresh) -> None:
    """End the session of a refresh token. Ending what has ended changes nothing."""
    async with parts_of(request).store.writing() as work:
        await sessions.logout(work, body.refresh_token)


@router.get("/me", operation_id="me")
async def me(call: AnyCall) -> public.Me:
    """Who the caller is."""
    return public.Me(
        user=call.caller.user,
        email=call.caller.email,
        organisation=call.caller.organisation,
        organisation_name=call.caller.organisation_name,
        operator=call.caller.operator,
        token=call.caller.token,
    )


def address_of(connection: HTTPConnection) -> str:
    """Where the request comes from. Only our own proxy, on the Unix socket, is believed about somebody else."""
    host = connection.client.host if connection.client is not None else ""
    if host:
        return host
    # The proxy appends the address it saw; what stands before it was written by the client.
    return connection.headers.get("x-forwarded-for", "").rpartition(",")[2].strip() or "proxy"
