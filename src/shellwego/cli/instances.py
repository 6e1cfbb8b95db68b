"""`shellwego instances`: what runs, where, and why not."""

from __future__ import annotations

from typing import Annotated

import typer

from shellwego.cli.groups import group, now
from shellwego.cli.here import Here, command
from shellwego.cli.output import Column, age
from shellwego.core.instances import InstanceGoal

app = group("List instances, their state and why.")


@command(app, "list")
async def list_instances(
    here: Here,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Of this app only.", show_default=False)] = None,
) -> None:
    """
    List instances: state and why, node, address, restarts.

    \b
    Examples:
      shellwego instances list
      shellwego instances list hello -o json
    """
    async with here.cloud() as cloud:
        instances = [instance async for instance in cloud.instances.list(name)]
    columns = [Column("ID"), Column("APP", cut=True), Column("TYPE"), Column("REL"), Column("STATE"),
               Column("WHY", cut=True), Column("NODE", cut=True, drop=1), Column("ADDRESS", drop=2),
               Column("RESTARTS", right=True),
               Column("AGE", right=True)]  # fmt: skip
    rows = [
        [
            i.id,
            i.app_name,
            i.process,
            i.release,
            i.state.value,
            _why(i.reason, i.goal, i.stale),
            i.node_name or i.node or "-",
            f"{i.address}:{i.port}" if i.address and i.port else i.address or "-",
            str(i.restarts),
            age(i.started_at or i.created_at, now()),
        ]
        for i in instances
    ]
    if name is not None:  # Every row would say the same.
        columns.pop(1)
        rows = [row[:1] + row[2:] for row in rows]
    here.output.many(instances, columns, rows, if_none="No instance runs.")


@command(app, "get")
async def get(here: Here, instance: Annotated[str, typer.Argument(metavar="ID", show_default=False)]) -> None:
    """
    Show one instance.

    \b
    Example:
      shellwego instances get ins_abcdefghijklmnopqrst
    """
    async with here.cloud() as cloud:
        found = await cloud.instances.get(instance)
    facts = [
        ("instance", found.id),
        ("app", found.app_name),
        ("process", found.process),
        ("release", found.release),
        ("state", found.state.value),
        ("why", _why(found.reason, found.goal, found.stale)),
        ("node", found.node_name or found.node or ""),
        ("address", f"{found.address}:{found.port}" if found.address and found.port else found.address or ""),
        ("restarts", str(found.restarts)),
        ("last end", f"{found.exit_reason} {found.exit_code if found.exit_code is not None else ''}".strip()
         if found.exit_reason else ""),
        ("age", age(found.started_at or found.created_at, now())),
    ]  # fmt: skip
    here.output.one(found, [(fact, value) for fact, value in facts if value and value != "-"])


def _why(reason: str, goal: InstanceGoal, stale: bool) -> str:
    parts = [reason] if reason else []
    if goal is not InstanceGoal.RUN:
        parts.append(f"to {goal.value}")
    if stale:
        parts.append("its node is silent")
    return ", ".join(parts) or "-"
