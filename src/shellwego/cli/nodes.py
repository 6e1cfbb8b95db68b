"""`shellwego nodes`: the machines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shellwego.cli.groups import group, now
from shellwego.cli.here import Here, command
from shellwego.cli.output import Column, Output, age
from shellwego.core.quantities import format_cpu, format_mib

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shellwego.protocol.public import Node

app = group("List the machines of the cloud.")

COLUMNS = (Column("NODE"), Column("STATE"), Column("INSTANCES", right=True), Column("CPU"), Column("MEMORY"),
           Column("DISK FREE"), Column("RUNTIMES", cut=True, drop=1), Column("SEEN", right=True))  # fmt: skip


@command(app, "list")
async def list_nodes(here: Here) -> None:
    """
    List nodes: what is promised to instances there, of what they have.

    \b
    Example:
      shellwego nodes list
    """
    async with here.cloud() as cloud:
        nodes = [node async for node in cloud.nodes.list()]
    here.output.many(nodes, COLUMNS, rows_of(nodes), if_none="No node has joined this cloud yet.")
    if here.output.for_people:
        tell_warnings(here.output, nodes)


def rows_of(nodes: Sequence[Node]) -> list[tuple[str, ...]]:
    return [
        (
            node.name,
            node.state.value,
            str(node.instances),
            f"{format_cpu(node.cpu_used_millis)}/{format_cpu(node.cpu_millis)}",
            f"{format_mib(node.memory_used_mib)}/{format_mib(node.memory_mib)}",
            f"{node.disk_free_mib >> 10}g/{node.disk_total_mib >> 10}g",
            ",".join(node.runtimes) or "-",
            age(node.last_seen_at, now()),
        )
        for node in nodes
    ]


def tell_warnings(output: Output, nodes: Sequence[Node]) -> None:
    for node in nodes:
        for warning in node.warnings:
            output.say(f"{node.name}: {warning}", style="yellow")
        if node.unclaimed:
            output.say(
                f"{node.name} runs {len(node.unclaimed)} instances that this cloud knows nothing of: "
                f"{', '.join(node.unclaimed)}",
                style="yellow",
            )
