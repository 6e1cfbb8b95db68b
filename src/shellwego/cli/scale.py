"""`shellwego scale`: how many instances."""

from __future__ import annotations

from typing import Annotated

import typer

from shellwego.cli.apps import changed, instances_of
from shellwego.cli.groups import App, Wait, single
from shellwego.cli.here import Here, command
from shellwego.cli.pairs import parse_counts
from shellwego.cli.waiting import Timeout, wait_until_running

app = single()


@command(app, "scale")
async def scale(
    here: Here,
    name: Annotated[str, App],
    counts: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TYPE=]N", help="N is of `web`.", show_default=False),
    ] = None,
    wait: Annotated[bool, Wait] = False,
    timeout: Timeout = 300,
) -> None:
    """
    Set how many instances of an app run. Without a number, prints the line that sets what is now.

    \b
    Examples:
      shellwego scale hello 3 --wait
      shellwego scale hello web=2 worker=1
      shellwego scale hello
    """
    wished = parse_counts(counts or [])
    async with here.cloud() as cloud:
        if not wished:
            found = await cloud.apps.get(name)
            if here.output.for_people:
                desired = " ".join(f"{n}={p.desired}" for n, p in sorted(found.processes.items()))
                here.output.line(f"shellwego scale {found.name} {desired}".rstrip())
            else:
                here.output.document({n: p.desired for n, p in sorted(found.processes.items())})
            return
        found = await cloud.apps.scale(name, wished)
        if wait:
            found = await wait_until_running(here, cloud, name, timeout)
    words = f"{found.name}: {instances_of(found)} healthy." if wait else f"{found.name} is being scaled."
    changed(here, found, words)
