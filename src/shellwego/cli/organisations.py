"""`shellwego organisations`: the tenants. For operators."""

from __future__ import annotations

import uuid
from typing import Annotated

import typer

from shellwego.cli.groups import group, now
from shellwego.cli.here import Here, command
from shellwego.cli.output import Column, age

app = group("List and create organisations (operator).")


@command(app, "list")
async def list_organisations(here: Here) -> None:
    """
    List the organisations.

    \b
    Example:
      shellwego organisations list
    """
    async with here.cloud() as cloud:
        found = [organisation async for organisation in cloud.organisations.list()]
    columns = [Column("ID"), Column("NAME", cut=True), Column("AGE", right=True)]
    rows = [(o.id, o.name, age(o.created_at, now())) for o in found]
    here.output.many(found, columns, rows, if_none="There is no organisation.")


@command(app, "create")
async def create(here: Here, name: Annotated[str, typer.Argument(metavar="NAME", show_default=False)]) -> None:
    """
    Create an organisation. Its apps are apart from all others.

    \b
    Example:
      shellwego organisations create acme
    """
    async with here.cloud() as cloud:
        made = await cloud.organisations.create(name, idempotency_key=uuid.uuid4().hex)
    here.output.say(f"Created {made.name}.")
    here.output.say(f"  → shellwego users create someone@example.org --organisation {made.name}")
    here.output.one(made, [("organisation", made.name), ("id", made.id)])
