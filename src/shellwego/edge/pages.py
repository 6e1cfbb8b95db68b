"""What does a visitor read when no app answers?

Small pages without anything from elsewhere, one per reason, as HTML for browsers, as a problem document (RFC 9457)
for programs that ask for JSON, as one line of text for everybody else. Nothing of the request is ever printed: a host
name in a page would be an invitation to write script into it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from html import escape

KINDS = ("html", "json", "text")
CONTENT_TYPES = {
    "html": "text/html; charset=utf-8",
    "json": "application/problem+json",
    "text": "text/plain; charset=utf-8",
}


@dataclass(frozen=True, slots=True)
class Page:
    """`refresh_seconds` lets a browser, and Retry-After a program, come back by itself. None: waiting won't help."""

    status: int
    code: str
    title: str
    detail: str
    refresh_seconds: int | None = None


ROUTE_PAGES = {
    "page-unknown": Page(404, "no_such_app", "No such app", "Nothing is deployed under this host name."),
    "page-starting": Page(
        503, "app_starting", "Starting", "The app is on its way. This page comes back to it by itself.", 2
    ),
    "page-crashed": Page(
        503,
        "app_crashed",
        "Crashed",
        "The app ended and is started again and again. Its owner finds the reason in its logs.",
        10,
    ),
    "page-stopped": Page(503, "app_stopped", "Stopped", "The app was stopped by its owner.", 60),
    "page-empty": Page(503, "app_empty", "Nothing here yet", "The app exists, and nothing was deployed to it yet.", 10),
}
"""By the name of the backend that answers with it."""

ERROR_PAGES = {
    400: Page(400, "bad_request", "Bad request", "The request is not sound HTTP."),
    403: Page(403, "forbidden", "Forbidden", "The request was refused."),
    408: Page(408, "request_timeout", "Too slow", "The request did not arrive in time."),
    413: Page(413, "too_large", "Too large", "The request is too large."),
    500: Page(500, "proxy_error", "Something broke", "The proxy could not handle the request."),
    502: Page(502, "bad_gateway", "No sound answer", "The app ended the connection or did not speak HTTP."),
    503: Page(503, "app_unreachable", "Not reachable", "The app does not answer right now.", 2),
    504: Page(504, "gateway_timeout", "No answer in time", "The app took too long to answer."),
}
"""By the status that HAProxy gives by itself. Their words stand in HAProxy's configuration: no quotes, no commas."""


def render_page(page: Page, kind: str) -> str:
    """The body, on one line without `%` outside of what a log format leaves alone."""
    if kind == "json":
        document = {
            "type": "about:blank",
            "title": page.title,
            "status": page.status,
            "detail": page.detail,
            "code": page.code,
            "retryable": page.refresh_seconds is not None,
        }
        return json.dumps(document)
    if kind == "text":
        return f"{page.status} {page.title}: {page.detail}"
    refresh = "" if page.refresh_seconds is None else f'<meta http-equiv="refresh" content="{page.refresh_seconds}">'
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"{refresh}<title>{escape(page.title)}</title><style>{_STYLE}</style></head>"
        f"<body><main><p>{page.status}</p><h1>{escape(page.title)}</h1><p>{escape(page.detail)}</p></main></body></html>"
    )


_STYLE = (
    "html{color-scheme:light dark;font:17px/1.5 system-ui,sans-serif}"
    "body{display:grid;min-height:90vh;place-items:center;margin:1rem}"
    "main{max-width:32rem}h1{margin:0 0 .5rem}p{margin:0;opacity:.75}"
)
