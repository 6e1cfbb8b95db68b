"""What exactly do we promise to answer?

FastAPI derives the good answers from the handlers; the refusals follow from what an operation is (has it a body, a
caller, a path with names in it?) and are added here, so that none is undocumented and no handler can forget one.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from shellwego.control.api.problems import MEDIA_TYPE
from shellwego.protocol.public import Problem

_OPEN = frozenset({"login", "refresh", "logout", "getHealth", "getMetrics"})
_LIMITED = frozenset({"login", "refresh"})
_TEXT = {
    400: "The request can't be understood.",
    401: "No credential, or one that isn't valid.",
    403: "Not for this caller.",
    404: "No such thing that the caller may see.",
    408: "The body stopped coming.",
    409: "The thing is in a state, or holds a name, that doesn't allow it.",
    413: "The body is too large.",
    415: "The body has a type that isn't taken here.",
    422: "A value can't be accepted; `errors` name the fields.",
    429: "Too many attempts.",
    503: "A part that is needed doesn't answer. Try again after Retry-After.",
    507: "No space is left.",
}
_ABOUT = """
The API of one ShellWeGo cloud. Sign in with `Authorization: Bearer TOKEN`: an API token (`swg_...`) or the access token
of a login. Errors are problem documents (RFC 9457) with a stable `code`. Lists are read page by page with `cursor`.
`Idempotency-Key` makes creating safe to repeat.
"""


def document(app: FastAPI, *, version: str) -> dict[str, Any]:
    """The OpenAPI document of the application."""
    found = get_openapi(
        title="ShellWeGo", version=version, routes=app.routes, description=_ABOUT, openapi_version="3.1.0"
    )
    schemas = found.setdefault("components", {}).setdefault("schemas", {})
    schemas["Problem"] = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= schemas["Problem"].pop("$defs", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    found["components"]["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
    for path, operations in found["paths"].items():
        for method, operation in operations.items():
            _complete(path, method, operation)
    return found


def _complete(path: str, method: str, operation: dict[str, Any]) -> None:
    id = operation["operationId"]
    responses = operation["responses"]
    if id not in _OPEN:
        operation["security"] = [{"bearer": []}]
    # FastAPI's own shape of a validation error never leaves us.
    if "application/json" in responses.get("422", {}).get("content", {}):
        del responses["422"]
    for status in _refusals(id, path, method, operation):
        responses.setdefault(
            str(status),
            {
                "description": _TEXT[status],
                "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
            },
        )
    operation["responses"] = dict(sorted(responses.items()))


def _refusals(id: str, path: str, method: str, operation: dict[str, Any]) -> set[int]:
    statuses = {400, 422}
    if id in _LIMITED:
        statuses |= {401, 429}
    if id == "getMetrics":
        statuses |= {401, 403}
    if id not in _OPEN:
        statuses |= {401, 403}
    if id != "getHealth":
        statuses.add(503)
    if "{" in path or (method == "delete"):
        statuses.add(404)
    if any(p["in"] == "query" and p["name"] == "app" for p in operation.get("parameters", ())):
        statuses.add(404)
    if "requestBody" in operation:
        statuses |= {413, 415}
    if method != "get":
        statuses |= {413, 507}
        if id not in _OPEN:
            statuses.add(409)
    if id == "uploadSource":
        statuses.add(408)
    return statuses
