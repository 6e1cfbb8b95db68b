"""`shellwego logs`: what an app says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from shellwego.cli.groups import App, now, single
from shellwego.cli.here import Here, command
from shellwego.cli.output import Format, as_json, colour_allowed, printable
from shellwego.cli.pairs import parse_since

if TYPE_CHECKING:
    from shellwego.protocol.public import LogEntry

app = single()


@command(app, "logs")
async def logs(
    here: Here,
    name: Annotated[str, App],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come, until Ctrl-C.")] = False,
    tail: Annotated[
        int | None,
        typer.Option("--tail", "-t", metavar="N", help="Only the last N lines (100).", min=0, show_default=False),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="WHEN", help="10m, 2h, 3d, or a time as 2026-01-31T12:00:00Z."),
    ] = None,
    process: Annotated[
        str | None, typer.Option("--process", "-p", metavar="TYPE", help="Of this process type.")
    ] = None,
    instance: Annotated[str | None, typer.Option("--instance", "-i", metavar="ID", help="Of this instance.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="The app's own words only, without time and source.")] = False,
) -> None:
    """
    Show an app's logs, or follow them.

    \b
    Examples:
      shellwego logs hello
      shellwego logs hello -f --process worker
      shellwego logs hello --since 10m -o json | jq -r .text
    """
    from shellwego.client.logs import LogQuery

    # Past a time, all of it is meant; otherwise a screenful or two.
    tail = tail if tail is not None or since is not None else 100
    what = LogQuery(tail, parse_since(since, now()) if since else None, process, instance)
    seen = False
    async with here.cloud() as cloud:
        entries = cloud.logs.follow(name, what) if follow else cloud.logs.read(name, what)
        async for entry in entries:
            seen = True
            _show(here, entry, raw=raw)
    if not seen and here.output.for_people:
        here.output.say(f"{name} has said nothing{' in that time' if since else ' yet'}.")


def _show(here: Here, entry: LogEntry, *, raw: bool) -> None:
    out = here.output
    if not out.for_people:
        line = entry.model_dump(mode="json")
        if out.form is Format.YAML:
            out.raw("---")
            out.document(line)
        else:
            out.raw(as_json(line))
        return
    words = printable(entry.text, keep_colour=colour_allowed(out.results))
    if raw:
        out.raw(words)
        return
    source = f"{entry.process}.{entry.instance.rpartition('_')[2][:5]}"
    if not out.results.is_terminal:
        out.raw(f"{entry.at.isoformat(timespec='milliseconds')} {source} {words}")
        return
    prefix = Text(f"{entry.at.astimezone():%H:%M:%S} ", style="dim")
    prefix.append(source, style="red" if entry.stream == "stderr" else "cyan")
    prefix.append(" │ ", style="dim")
    out.results.print(prefix, Text.from_ansi(words), sep="")
