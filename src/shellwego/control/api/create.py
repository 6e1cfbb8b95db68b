"""How do the parts become one application?"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry

from shellwego.control.api import (
    apps,
    auth,
    config,
    deployments,
    exec,
    health,
    images,
    instances,
    logs,
    nodes,
    openapi,
    organisations,
    pages,
    problems,
    releases,
    sources,
    status,
    tokens,
)
from shellwego.control.api.kept import KeptAnswers
from shellwego.control.api.parts import ApiParts
from shellwego.control.api.shell import Shell

# In this order they are looked through for each request: what is asked for most stands first.
_NOUNS = (
    apps,
    auth,
    tokens,
    organisations,
    sources,
    deployments,
    releases,
    config,
    instances,
    logs,
    exec,
    nodes,
    images,
    status,
    health,
    pages,
)


def create_api(parts: ApiParts) -> FastAPI:
    """The API as an ASGI application. Nothing is read or written before the first request."""
    api = FastAPI(
        title="ShellWeGo",
        version=parts.settings.version,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    api.state.parts = parts
    api.state.kept = KeptAnswers()
    api.state.registry = CollectorRegistry()
    for noun in _NOUNS:
        # Each route by itself, in one list: inside of included routers FastAPI looks for the route of a request twice.
        api.router.routes.extend(noun.router.routes)
    problems.install(api)
    api.add_middleware(
        Shell,
        settings=parts.settings,
        random_bytes=parts.random_bytes,
        registry=api.state.registry,
    )
    made: dict[str, Any] = {}

    def document() -> dict[str, Any]:
        if not made:
            made.update(openapi.document(api, version=parts.settings.version))
        return made

    async def openapi_json(_request: Any) -> JSONResponse:
        return JSONResponse(document())

    api.openapi = document  # type: ignore[method-assign]  # FastAPI's own way to replace it
    api.add_route("/openapi.json", openapi_json, include_in_schema=False)
    return api
