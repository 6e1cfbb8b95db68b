"""Who calls, in which transaction, and was it asked before?

One request, one unit of work, committed before the answer is sent. A credential is looked at before a transaction is
begun, and its holder inside it, so a revoked token is refused by the same snapshot that the request works on.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Header, Request, Response
from pydantic import BaseModel
from starlette.requests import HTTPConnection

from shellwego.control.api.parts import ApiParts, parts_of
from shellwego.control.services import sessions, tokens
from shellwego.control.services.callers import Caller, ensure_operator
from shellwego.control.services.signing import Claims
from shellwego.control.store import Tenant, UnitOfWork
from shellwego.control.store.records import IdempotencyRecord, TokenRecord
from shellwego.core.errors import DiskFull, IdempotencyMismatch, InvalidField, Unauthenticated, Unavailable

_SECRET = re.compile(r"swg_[0-9a-f]{64}")
_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_JSON = "application/json"
_READS = frozenset({"GET", "HEAD"})
BEARER_SUBPROTOCOL = "shellwego.bearer."
"""Browsers set no headers on a WebSocket, and tokens have no place in a URL: they offer this, the token behind it."""

HOLDS_UNTIL = "shellwego.holds_until"
"""In the scope: until when the same request may be answered the same, as far as its credential goes (`kept.py`)."""

ENDING = "shellwego.ending"
"""In the scope: what shall end with the handler, before its answer is sent (`StrictRoute`)."""

Credential = Claims | str


def credential_of(connection: HTTPConnection) -> Credential:
    """What the request came with, checked as far as that goes without the database. Raises Unauthenticated."""
    parts = parts_of(connection)
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    if not token and connection.scope["type"] == "websocket":
        offered = connection.scope.get("subprotocols", ())
        token = next((p.removeprefix(BEARER_SUBPROTOCOL) for p in offered if p.startswith(BEARER_SUBPROTOCOL)), "")
        scheme = "bearer"
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise Unauthenticated
    if _SECRET.fullmatch(token):
        return token
    if len(token) > 4096:
        raise Unauthenticated("This is not a token.")
    return parts.signing.verify(token, now=parts.clock())


async def _credential(connection: HTTPConnection) -> Credential:
    """The same as a dependency: a plain function would be run in a thread, for the price of half the request."""
    return credential_of(connection)


RequestCredential = Annotated[Credential, Depends(_credential)]


async def caller_of(work: UnitOfWork, credential: Credential) -> tuple[Caller, TokenRecord | None]:
    """Who that is. Raises Unauthenticated when the token, the session or the user has ended."""
    if isinstance(credential, Claims):
        return await sessions.caller_of_session(work, credential), None
    return await tokens.caller_of_token(work, credential)


@dataclass(frozen=True, slots=True)
class Call:
    """An authenticated request."""

    request: Request
    parts: ApiParts
    work: UnitOfWork
    caller: Caller
    idempotency_key: str | None = None

    @property
    def tenant(self) -> Tenant:
        """All that the caller may see."""
        return self.work.for_organisation(self.caller.organisation)

    async def once(self, act: Callable[[], Awaitable[BaseModel]], *, fingerprint: str | None = None) -> Response:
        """
        Do it and answer, and under an Idempotency-Key do it only once: the answer is kept in the transaction of its
        effect, and the same request gets it again. Kept encrypted, since an answer may hold a secret that is shown only
        once. Raises IdempotencyMismatch for the same key with another request.
        """
        route: Any = self.request.scope["route"]
        status = route.status_code or 200
        if self.idempotency_key is None:
            # Written here: FastAPI would check once more what was just made.
            return Response((await act()).model_dump_json(), status, media_type=_JSON)
        organisation, user, key = self.caller.organisation, self.caller.user, self.idempotency_key
        context = f"idempotency {organisation} {user} {key}"
        path, method = self.request.url.path, self.request.method
        asked = fingerprint if fingerprint is not None else hashlib.sha256(await self.request.body()).hexdigest()
        await self.work.idempotency.hold(organisation, user, key)
        before = await self.work.idempotency.find_key(organisation, user, key)
        if before is not None:
            if (before.method, before.path, before.request_hash) != (method, path, asked):
                raise IdempotencyMismatch
            body = await self.parts.kms.decrypt(before.body, context=context)
            return Response(body, before.status, headers={"Idempotency-Replayed": "true"}, media_type=_JSON)
        answer = (await act()).model_dump_json().encode()
        record = IdempotencyRecord(
            organisation=organisation,
            user=user,
            key=key,
            method=method,
            path=path,
            request_hash=asked,
            status=status,
            body=await self.parts.kms.encrypt(answer, context=context),
            created_at=self.work.now,
        )
        await self.work.idempotency.add(record)
        return Response(answer, status, media_type=_JSON)


IdempotencyKey = Annotated[
    str | None,
    Header(
        description="Up to 255 visible characters. The same key has the same effect only once.",
        # In the document only: `checked_key` refuses, by the header's own name.
        json_schema_extra={"pattern": "^[\\x21-\\x7e]{1,255}$"},
    ),
]


@contextlib.asynccontextmanager
async def _calling(request: Request, idempotency_key: str | None) -> AsyncIterator[Call]:
    """One request, one transaction: the commit of what it did is here. Raises Unauthenticated."""
    parts = parts_of(request)
    credential = credential_of(request)
    async with parts.store.reading() if request.method in _READS else parts.store.writing() as work:
        caller, token = await caller_of(work, credential)
        use_due = tokens.use_is_due(token) if token is not None else None
        if token is not None and (use_due is None or use_due < work.now):
            await _write_use(request, work, token)
            use_due = work.now  # What is kept of this answer would hide the next use.
        ends = [time for time in (caller.expires_at, use_due) if time is not None]
        request.scope[HOLDS_UNTIL] = min(ends, default=work.now)
        yield Call(request, parts, work, caller, idempotency_key)


async def _call(request: Request, idempotency_key: str | None = None) -> Call:
    # FastAPI's own way, a dependency that yields, costs as much as a bare answer.
    ending: contextlib.AsyncExitStack = request.scope[ENDING]
    return await ending.enter_async_context(_calling(request, idempotency_key))


async def any_call(request: Request) -> Call:
    """The request with its caller. Raises Unauthenticated."""
    return await _call(request)


async def once_call(request: Request, idempotency_key: IdempotencyKey = None) -> Call:
    """The same for operations that know an Idempotency-Key. Raises InvalidField."""
    return await _call(request, checked_key(idempotency_key))


async def operator_call(request: Request) -> Call:
    """Raises Forbidden."""
    called = await _call(request)
    ensure_operator(called.caller)
    return called


def checked_key(key: str | None) -> str | None:
    if key is not None and _KEY.fullmatch(key) is None:
        raise InvalidField("Idempotency-Key", "use 1 to 255 visible ASCII characters, such as a UUID.")
    return key


AnyCall = Annotated[Call, Depends(any_call)]
OnceCall = Annotated[Call, Depends(once_call)]
OperatorCall = Annotated[Call, Depends(operator_call)]


async def _write_use(request: Request, work: UnitOfWork, token: TokenRecord) -> None:
    """Bring a token's `last_used_at` up to date. A database that can't be written to is no reason to refuse a read."""
    if request.method not in _READS:
        await work.for_the_cloud().tokens.update(token.id, last_used_at=work.now)
        return
    with contextlib.suppress(Unavailable, DiskFull):
        async with parts_of(request).store.writing(durable=False) as writing:
            await writing.for_the_cloud().tokens.update(token.id, last_used_at=writing.now)
