"""Which answers need not be made again?

Those that follow from the caller, the address and the database alone, as long as all three are the same. Nobody tells
this module that something changed: the database itself says, before each answer, whether anything at all was committed
(`Store.version`), so no write path, of this server or another, can forget to (docs/decisions/0007).
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Awaitable, Callable, Hashable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from shellwego.control.api.calls import HOLDS_UNTIL
from shellwego.control.api.parts import parts_of
from shellwego.control.api.strict_json import StrictRoute

MAXIMUM_BYTES = 2_000_000


class KeptAnswers:
    """Bodies of answers at one version of the database; none is kept past it."""

    def __init__(self, *, maximum_bytes: int = MAXIMUM_BYTES) -> None:
        self._maximum_bytes = maximum_bytes
        self._version: Hashable = None
        self._bodies: dict[Hashable, tuple[dt.datetime, bytes]] = {}
        self._bytes = 0

    def find(self, version: Hashable, key: Hashable, now: dt.datetime) -> bytes | None:
        """The body for that key, if it was kept at that version and still holds."""
        if version != self._version:
            self._forget()
            self._version = version
        until, body = self._bodies.get(key, (now, b""))
        return body if now < until else None

    def keep(self, version: Hashable, key: Hashable, until: dt.datetime, body: bytes) -> None:
        """`version` is what was there before the answer was begun: what it shows is at least as new."""
        if version != self._version:
            return
        self._bytes -= len(self._bodies.pop(key, (until, b""))[1])
        if self._bytes + len(body) > self._maximum_bytes:
            self._forget()
        if len(body) <= self._maximum_bytes:
            self._bodies[key] = until, body
            self._bytes += len(body)

    def _forget(self) -> None:
        self._bodies.clear()
        self._bytes = 0


class KeptRoute(StrictRoute):
    """Routes whose answers to GET follow from the caller, the address and the database alone, and from no clock."""

    def get_route_handler(self) -> Any:
        make: Callable[[Request], Awaitable[Response]] = super().get_route_handler()
        if self.methods != {"GET"}:
            return make

        async def answer(request: Request) -> Response:
            authorization = request.headers.get("authorization")
            if authorization is None:
                return await make(request)
            parts, kept = parts_of(request), request.app.state.kept
            # Hashed, so that no credential stays in memory.
            key = hashlib.sha256(authorization.encode()).digest(), request.scope["path"], request.scope["query_string"]
            version = await parts.store.version()
            body = kept.find(version, key, parts.clock())
            if body is not None:
                return Response(body, media_type="application/json")
            response = await make(request)
            if response.status_code == 200:
                kept.keep(version, key, request.scope[HOLDS_UNTIL], bytes(response.body))
            return response

        return answer
