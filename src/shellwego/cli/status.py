"""`shellwego status`: the whole cloud at a glance."""

from __future__ import annotations

from shellwego.cli.groups import single
from shellwego.cli.here import Here, command
from shellwego.cli.nodes import COLUMNS, rows_of, tell_warnings

app = single()


@command(app, "status")
async def status(here: Here) -> int | None:
    """
    Show the whole cloud: apps, instances, nodes, and what needs a look.

    \b
    Examples:
      shellwego status
      shellwego status -o json | jq .problems
    """
    async with here.cloud() as cloud:
        found = await cloud.status.get()
        url = cloud.url
    if not here.output.for_people:
        here.output.document(found.model_dump(mode="json"))
        return None
    here.output.one(
        found,
        [
            ("cloud", f"{url} (ShellWeGo {found.version})"),
            ("apps at", f"NAME.{found.domain}"),
            ("apps", _counts(found.apps)),
            ("instances", _counts(found.instances)),
            ("edges", _edges(found.edges)),
        ],
    )
    if found.nodes:
        here.output.line("")
        here.output.table(COLUMNS, rows_of(found.nodes))
        tell_warnings(here.output, found.nodes)
    for problem in found.problems:
        here.output.say(f"! {problem}", style="yellow")
    return None


def _counts(counts: dict[str, int]) -> str:
    total = sum(counts.values())
    if not total:
        return "none"
    return f"{total} ({', '.join(f'{count} {what}' for what, count in sorted(counts.items()) if count)})"


def _edges(edges: list[dict[str, object]]) -> str:
    if not edges:
        return "none connected"
    return ", ".join(str(edge.get("name") or edge.get("id") or "edge") for edge in edges)
