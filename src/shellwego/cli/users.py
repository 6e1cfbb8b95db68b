"""`shellwego users`: the people of an organisation. For operators."""

from __future__ import annotations

import secrets
import sys
import uuid
from typing import Annotated

import typer

from shellwego.cli.groups import group, now
from shellwego.cli.here import Here, command
from shellwego.cli.output import Column, age

app = group("List and create users (operator).")


@command(app, "list")
async def list_users(here: Here) -> None:
    """
    List the users.

    \b
    Example:
      shellwego users list
    """
    async with here.cloud() as cloud:
        found = [user async for user in cloud.users.list()]
    columns = [Column("ID"), Column("EMAIL", cut=True), Column("ORGANISATION", cut=True), Column("OPERATOR"),
               Column("AGE", right=True)]  # fmt: skip
    rows = [(u.id, u.email, u.organisation, "yes" if u.operator else "no", age(u.created_at, now())) for u in found]
    here.output.many(found, columns, rows, if_none="There is no user.")


@command(app, "create")
async def create(
    here: Here,
    email: Annotated[str, typer.Argument(metavar="EMAIL", show_default=False)],
    organisation: Annotated[
        str, typer.Option("--organisation", metavar="NAME", help="Whose user.", show_default=False)
    ],
    password_stdin: Annotated[bool, typer.Option("--password-stdin", help="Read the password from stdin.")] = False,
) -> None:
    """
    Create a user. Without --password-stdin a password is made and printed this once.

    \b
    Example:
      shellwego users create ann@example.org --organisation acme
    """
    from shellwego.protocol.public import UserCreate

    password = sys.stdin.readline().rstrip("\n") if password_stdin else secrets.token_urlsafe(18)
    from pydantic import ValidationError

    from shellwego.core.errors import InvalidField

    try:
        body = UserCreate(email=email, password=password, organisation=organisation)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise InvalidField(str(first["loc"][0]), f"{first['msg']}.") from None
    async with here.cloud() as cloud:
        made = await cloud.users.create(body, idempotency_key=uuid.uuid4().hex)
    here.output.say(f"Created {made.email}.")
    facts = [("user", made.email), ("organisation", made.organisation), ("id", made.id)]
    if not password_stdin:
        facts.append(("password", password))
    if here.output.for_people:
        here.output.one(made, facts)
    else:
        extra = {} if password_stdin else {"password": password}
        here.output.document({**made.model_dump(mode="json"), **extra})
