"""What does a client see when something can't be done?

A problem document (RFC 9457) with a stable code. Which HTTP status an error has is decided in this one table. What
isn't an error of ours is a bug: a problem without details, and a traceback in the log.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection

from shellwego.core import errors
from shellwego.core.errors import InvalidField, ShellWeGoError, TooManyRequests
from shellwego.drivers.kms.port import DecryptionFailed
from shellwego.protocol.public import FieldProblem, Problem

log = structlog.get_logger()

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 2


class UnsupportedMediaType(ShellWeGoError):
    """A body of a type that the operation doesn't take."""

    code = "unsupported_media_type"

    def __init__(self, given: str, expected: str) -> None:
        super().__init__(f"A body of type {given[:60] or '(none)'!r} can't be read here. Send {expected}.")


class TooSlow(ShellWeGoError):
    """A body that stopped coming."""

    code = "request_timeout"
    retryable = True

    def __init__(self, seconds: float) -> None:
        super().__init__(f"Nothing came for {seconds:g} s. Send it again.")


HTTP_STATUS: dict[type[ShellWeGoError], int] = {
    errors.InvalidField: 422,
    errors.NotFound: 404,
    errors.AlreadyExists: 409,
    errors.Conflict: 409,
    errors.ImageNotKept: 409,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.TooLarge: 413,
    errors.TooManyRequests: 429,
    errors.NoCapacity: 503,
    errors.NodeUnavailable: 503,
    errors.Unavailable: 503,
    errors.IdempotencyMismatch: 422,
    errors.ImageNotFound: 422,
    errors.ImageRefused: 422,
    errors.RegistryUnavailable: 503,
    errors.BuildFailed: 422,
    errors.StartFailed: 422,
    errors.EngineMissing: 503,
    errors.DiskFull: 507,
    UnsupportedMediaType: 415,
    TooSlow: 408,
}

# What Starlette refuses by itself, before any code of ours.
_PLAIN = {
    400: ("bad_request", "The request can't be understood."),
    404: ("not_found", "There is nothing at this address."),
    405: ("method_not_allowed", "This address doesn't take this method."),
}
_TITLES = {
    400: "Bad request",
    401: "Not signed in",
    403: "Forbidden",
    404: "Not found",
    405: "Method not allowed",
    408: "Too slow",
    409: "Conflict",
    413: "Too large",
    415: "Unsupported media type",
    422: "Can't be accepted",
    429: "Too many requests",
    500: "Internal error",
    503: "Unavailable",
    507: "Out of space",
}


def status_of(error: ShellWeGoError) -> int:
    """The HTTP status of an error; of a subclass, that of its base."""
    return next((HTTP_STATUS[base] for base in type(error).__mro__ if base in HTTP_STATUS), 500)


def problem_of(error: ShellWeGoError, request_id: str | None) -> Problem:
    fields = []
    if isinstance(error, InvalidField):
        fields = [FieldProblem(field=error.field, problem=error.problem, line=error.line)]
    return _problem(status_of(error), error.code, str(error), request_id, retryable=error.retryable, fields=fields)


def respond(problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    return Response(
        problem.model_dump_json(exclude_none=True), status_code=problem.status, media_type=MEDIA_TYPE, headers=headers
    )


def refusal(error: ShellWeGoError, request_id: str | None) -> Response:
    """The answer for an error of ours."""
    headers: dict[str, str] = {}
    if isinstance(error, TooManyRequests):
        headers["Retry-After"] = str(error.retry_after_seconds)
    elif status_of(error) in {503, 507}:
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    elif status_of(error) == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="shellwego"'
    return respond(problem_of(error, request_id), headers)


def bug(request_id: str | None) -> Response:
    """The answer when we are at fault. The log has the rest, under the same request id."""
    detail = "An error of ShellWeGo's own. Its log tells more under this request id."
    return respond(_problem(500, "internal", detail, request_id))


def install(app: FastAPI) -> None:
    """Answer every refusal of this application with a problem document."""
    app.add_exception_handler(ShellWeGoError, _on_ours)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(ClientDisconnect, _on_cut_off)
    app.add_exception_handler(DecryptionFailed, _on_decryption)


def request_id_of(connection: HTTPConnection) -> str | None:
    found = connection.scope.get("shellwego.request_id")
    return found if isinstance(found, str) else None


async def _on_ours(request: Request, error: Exception) -> Response:
    assert isinstance(error, ShellWeGoError)
    if status_of(error) == 503:
        log.warning("api.unavailable", path=request.url.path, error=str(error), request_id=request_id_of(request))
    return refusal(error, request_id_of(request))


async def _on_cut_off(request: Request, _error: Exception) -> Response:
    """A client that left; or that only closed its own half, and still reads."""
    detail = "The body ended before all of it had come. Send it again."
    return respond(_problem(400, "bad_request", detail, request_id_of(request), retryable=True))


async def _on_decryption(request: Request, error: Exception) -> Response:
    log.error("api.undecryptable", path=request.url.path, error=str(error), request_id=request_id_of(request))
    gone = errors.Unavailable("The secret", f"it can't be read: {error}. Is this cloud's key file the right one?")
    return refusal(gone, request_id_of(request))


async def _on_validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    fields = [FieldProblem(field=_path(found["loc"]), problem=_words(found)) for found in error.errors()][:50]
    detail = "; ".join(f"{f.field}: {f.problem}" for f in fields[:3])
    return respond(_problem(422, InvalidField.code, detail, request_id_of(request), fields=fields))


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, ClientDisconnect):
        return await _on_cut_off(request, error.__cause__)
    # FastAPI wraps what our own body reader raises; the cause is what the client should hear.
    if isinstance(error.__cause__, ShellWeGoError):
        return refusal(error.__cause__, request_id_of(request))
    code, detail = _PLAIN.get(error.status_code, ("bad_request", str(error.detail)))
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = ", ".join(_methods_at(request))
    return respond(_problem(error.status_code, code, detail, request_id_of(request)), headers)


def _methods_at(request: Request) -> list[str]:
    """Every method of the address, by the document: the router only knows the first route that fits."""
    methods: set[str] = set()
    for template, operations in request.app.openapi()["paths"].items():
        pattern = re.sub(r"\{[^/]+\}", "[^/]+", template)
        if re.fullmatch(pattern, request.url.path):
            methods |= {method.upper() for method in operations}
    return sorted(methods or {"GET"})  # Pages of the documentation aren't in it, and are only read.


def _problem(
    status: int,
    code: str,
    detail: str,
    request_id: str | None,
    *,
    retryable: bool = False,
    fields: Sequence[FieldProblem] = (),
) -> Problem:
    return Problem(
        type="about:blank" if code == "internal" else f"urn:shellwego:problem:{code}",
        title=_TITLES.get(status, "Refused"),
        status=status,
        detail=detail,
        code=code,
        retryable=retryable,
        request_id=request_id,
        errors=list(fields),
    )


def _path(location: Sequence[Any]) -> str:
    """`resources.memory_mib`, without the words that only tell where in the request it stood."""
    parts = [str(part) for part in location]
    if len(parts) > 1 and parts[0] in {"body", "query", "path", "header"}:
        parts = parts[1:]
    return ".".join(parts)[:200]


def _words(found: Mapping[str, Any]) -> str:
    text = str(found["msg"])
    return {"Field required": "is required.", "Extra inputs are not permitted": "is not a field here."}.get(text, text)
