"""`shellwego open`: an app in the browser."""

from __future__ import annotations

import webbrowser
from typing import Annotated

from shellwego.cli.groups import App, single
from shellwego.cli.here import Here, command

app = single()


@command(app, "open")
async def open_app(here: Here, name: Annotated[str, App]) -> None:
    """
    Open an app in the browser, and print its URL.

    \b
    Example:
      shellwego open hello
    """
    async with here.cloud() as cloud:
        found = await cloud.apps.get(name)
    if here.output.for_people:
        here.output.line(found.url)
    else:
        here.output.document({"url": found.url})
    # Only what a browser may open: a cloud we don't know must not make us run anything else.
    if here.output.results.is_terminal and found.url.startswith(("http://", "https://")):
        webbrowser.open(found.url)
