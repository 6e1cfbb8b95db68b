"""Swagger UI and ReDoc, served from this machine: their files come with a dependency, not from a CDN."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

from fastapi import APIRouter
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse

from shellwego.core.errors import NotFound

router = APIRouter(include_in_schema=False)

_TITLE = "ShellWeGo API"
_FILES = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "redoc.standalone.js": "text/javascript",
    "favicon.png": "image/png",
}
# Both pages start themselves with an inline script; ReDoc works in a blob worker. Nothing may come from elsewhere.
_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline' blob:; worker-src blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:; connect-src 'self'; frame-ancestors 'none'"
)


def _directory() -> Path:
    return Path(str(importlib.resources.files("fastapi_offline"))) / "static"


@router.get("/docs")
async def swagger_ui() -> HTMLResponse:
    page = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title=_TITLE,
        swagger_js_url="/docs/static/swagger-ui-bundle.js",
        swagger_css_url="/docs/static/swagger-ui.css",
        swagger_favicon_url="/docs/static/favicon.png",
    )
    page.headers["Content-Security-Policy"] = _POLICY
    return page


@router.get("/redoc")
async def redoc() -> HTMLResponse:
    page = get_redoc_html(
        openapi_url="/openapi.json",
        title=_TITLE,
        redoc_js_url="/docs/static/redoc.standalone.js",
        redoc_favicon_url="/docs/static/favicon.png",
        with_google_fonts=False,
    )
    page.headers["Content-Security-Policy"] = _POLICY
    return page


@router.get("/docs/static/{name}")
async def file(name: str) -> FileResponse:
    if name not in _FILES:
        raise NotFound("page", name[:60])
    return FileResponse(_directory() / name, media_type=_FILES[name], headers={"Cache-Control": "max-age=86400"})
