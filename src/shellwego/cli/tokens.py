"""`shellwego tokens`: credentials for scripts."""

from __future__ import annotations

from typing import Annotated

import typer

from shellwego.cli.groups import group, now
from shellwego.cli.here import Here, command
from shellwego.cli.output import Column, age
from shellwego.core.errors import NotFound

app = group("Create and revoke API tokens for scripts.")


@command(app, "create")
async def create(
    here: Here,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is for.", show_default=False)],
    days: Annotated[
        int | None, typer.Option("--days", metavar="N", help="It ends by itself after so many days.", min=1, max=3650)
    ] = None,
) -> None:
    """
    Create an API token. Its secret is printed this once.

    \b
    Examples:
      shellwego tokens create ci --days 90
      export SHELLWEGO_TOKEN=$(shellwego tokens create ci)
    """
    from shellwego.protocol.public import TokenCreate

    async with here.cloud() as cloud:
        made = await cloud.tokens.create(TokenCreate(name=name, expires_in_days=days))
    if here.output.for_people:
        here.output.say(f"Token {made.id} ({made.name}). Keep it now: it is never shown again.")
        here.output.raw(made.secret)
    else:
        here.output.document(made.model_dump(mode="json"))


@command(app, "list")
async def list_tokens(here: Here) -> None:
    """
    List the API tokens, without their secrets.

    \b
    Example:
      shellwego tokens list
    """
    async with here.cloud() as cloud:
        tokens = [token async for token in cloud.tokens.list()]
    columns = [Column("ID"), Column("NAME", cut=True), Column("EXPIRES"), Column("USED", right=True),
               Column("AGE", right=True)]  # fmt: skip
    rows = [
        (
            t.id,
            t.name,
            t.expires_at.astimezone().strftime("%Y-%m-%d") if t.expires_at else "never",
            age(t.last_used_at, now()),
            age(t.created_at, now()),
        )
        for t in tokens
    ]
    here.output.many(tokens, columns, rows, if_none="There is no API token. Try: shellwego tokens create ci --days 90")


@command(app, "revoke")
async def revoke(here: Here, token: Annotated[str, typer.Argument(metavar="NAME|ID", show_default=False)]) -> None:
    """
    Revoke an API token: whoever uses it is refused from now on.

    \b
    Example:
      shellwego tokens revoke ci
    """
    async with here.cloud() as cloud:
        found = [t async for t in cloud.tokens.list() if token in {t.id, t.name}]
        if not found:
            raise NotFound("token", token)
        for one in found:
            await cloud.tokens.revoke(one.id)
            here.output.say(f"Revoked {one.name} ({one.id}).")
