"""Is every answer one that our OpenAPI document promises?

An httpx transport around the application: each answer of each test must be documented for its operation, with its
status, its media type and, for JSON, its schema. Use it wherever a test talks to the API.
"""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import jsonschema
from fastapi import FastAPI

_PAGES = re.compile(r"/docs(/static/.*)?|/redoc|/openapi\.json")
_BEFORE_ROUTING = {400, 404, 405, 413}


class Checked(httpx.AsyncBaseTransport):
    """Passes requests on and checks what comes back. Streams are checked for status and media type only."""

    def __init__(self, inner: httpx.AsyncBaseTransport, document: dict[str, Any]) -> None:
        self._inner = inner
        self._document = document
        self._paths = {
            path: re.compile(re.sub(r"\\\{[^/]+?\\\}", "[^/]+", re.escape(path)) + r"\Z") for path in document["paths"]
        }

    @classmethod
    def around(cls, api: FastAPI, **options: Any) -> Checked:
        return cls(httpx.ASGITransport(app=api, **options), api.openapi())

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self._inner.handle_async_request(request)
        if _PAGES.fullmatch(request.url.path):
            return response
        content_type = response.headers.get("content-type", "").partition(";")[0]
        content = await response.aread() if content_type.endswith(("/json", "+json")) else None
        self.check(request.method, request.url.path, response.status_code, content_type, content)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()

    def check(self, method: str, path: str, status: int, content_type: str, content: bytes | None) -> None:
        """Raises AssertionError for an answer that the document doesn't promise."""
        operation = self._operation(method, path)
        if operation is None:
            assert status in _BEFORE_ROUTING, f"{method} {path}: {status} for an address that isn't documented"
            self._check_schema(content, {"$ref": "#/components/schemas/Problem"})
            return
        promised = operation["responses"].get(str(status))
        assert promised is not None, f"{method} {path}: {status} is not documented: {content!r}"
        media = promised.get("content", {})
        if not media:
            assert not content, f"{method} {path}: {status} should have no body"
            return
        assert content_type in media, f"{method} {path}: {status} has {content_type!r}, documented: {sorted(media)}"
        if content is not None:
            self._check_schema(content, media[content_type].get("schema", {}))

    def _operation(self, method: str, path: str) -> dict[str, Any] | None:
        fitting = [p for p, pattern in self._paths.items() if pattern.match(path)]
        fitting.sort(key=lambda p: p.count("{"))
        for found in fitting:
            operation: dict[str, Any] | None = self._document["paths"][found].get(method.lower())
            if operation is not None:
                return operation
        return None

    def _check_schema(self, content: bytes | None, schema: dict[str, Any]) -> None:
        assert content is not None
        jsonschema.validate(json.loads(content), {**schema, "components": self._document["components"]})
