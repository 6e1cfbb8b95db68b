"""What is the same for every request, before and after any code of a route?

A request id, a limit on the body that holds while it streams in, headers that browsers should see, one line of log and
one observation for the metrics, and the last resort when a handler breaks. Plain ASGI: it costs a few microseconds
and passes streams through untouched.
"""

from __future__ import annotations

import re
import time
import traceback
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shellwego.control.api import problems
from shellwego.control.api.parts import ApiSettings
from shellwego.core.errors import ShellWeGoError, TooLarge

log = structlog.get_logger()

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{8,64}")
_UPLOAD = re.compile(r"/v1/apps/[^/]+/sources/?")
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_API_HEADERS = (
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cache-control", b"no-store"),
)


class Shell:
    """Wraps the application."""

    def __init__(self, app: ASGIApp, *, settings: ApiSettings, random_bytes: Any, registry: CollectorRegistry) -> None:
        self._app, self._settings, self._random_bytes = app, settings, random_bytes
        labels = ("method", "route", "status")
        self._requests = Counter("shellwego_api_requests", "Answered requests.", labels, registry=registry)
        self._seconds = Histogram(
            "shellwego_api_request_seconds", "Time to the end of the answer.", ("method", "route"), registry=registry
        )

        # By method, route and status: to look a child up by its labels takes as long as to count on it.
        self._children: dict[tuple[str, str, int | None], tuple[Counter, Histogram]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        request_id = self._request_id(scope)
        scope["shellwego.request_id"] = request_id
        if scope["type"] == "websocket":
            await self._app(scope, receive, send)
            return
        answer = _Answer(send, scope, request_id.encode())
        limited = _LimitedBody(receive, self._limit(scope))
        began = time.perf_counter()
        try:
            declared = _content_length(scope)
            if declared is not None and declared > limited.limit:
                raise TooLarge("The body", limit=limited.limit)
            await self._app(scope, limited, answer)
        except ShellWeGoError as error:
            if answer.status is not None:
                raise
            await problems.refusal(error, request_id)(scope, receive, answer)
        except Exception:
            # As text: pretty tracebacks show the values of variables, and ours hold tokens and secrets.
            log.error(
                "api.bug",
                method=scope["method"],
                path=scope["path"],
                request_id=request_id,
                traceback=traceback.format_exc(),
            )
            if answer.status is not None:
                raise  # Half an answer is out: cutting the connection is all that is left to tell.
            await problems.bug(request_id)(scope, receive, answer)
        finally:
            self._observe(scope, answer.status, time.perf_counter() - began)

    def _request_id(self, scope: Scope) -> str:
        """The client's own, if it is harmless to log, or a new one."""
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        return str(given.decode()) if _REQUEST_ID.fullmatch(given) else str(self._random_bytes(8).hex())

    def _limit(self, scope: Scope) -> int:
        is_upload = scope["method"] == "POST" and _UPLOAD.fullmatch(scope["path"]) is not None
        return self._settings.maximum_source_bytes if is_upload else self._settings.maximum_body_bytes

    def _observe(self, scope: Scope, status: int | None, seconds: float) -> None:
        route = scope.get("route")
        path = getattr(route, "path", None) or "(none)"  # The pattern: the number of apps must not become labels.
        method = scope["method"] if path != "(none)" else "(any)"
        key = method, path, status
        if key not in self._children:
            labelled = self._requests.labels(method, path, str(status or 0)), self._seconds.labels(method, path)
            self._children[key] = labelled
        requests, duration = self._children[key]
        requests.inc()
        duration.observe(seconds)


class _LimitedBody:
    """Counts what comes in, whatever Content-Length said."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive, self.limit, self._count = receive, limit, 0

    async def __call__(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._count += len(message.get("body", b""))
            if self._count > self.limit:
                raise TooLarge("The body", limit=self.limit)
        return message


class _Answer:
    """Adds our headers to the answer, and remembers how it began."""

    def __init__(self, send: Send, scope: Scope, request_id: bytes) -> None:
        self._send, self._is_page = send, scope["path"].startswith(("/docs", "/redoc"))
        self._request_id = request_id
        self.status: int | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = list(message.get("headers", ()))
            named = {name.lower() for name, _ in headers}
            ours = _HEADERS if self._is_page else _HEADERS + _API_HEADERS
            headers += [pair for pair in ours if pair[0] not in named]
            message = {**message, "headers": [*headers, (b"x-request-id", self._request_id)]}
        await self._send(message)


def _content_length(scope: Scope) -> int | None:
    given = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
    return int(given) if given.isdigit() and len(given) < 20 else None
