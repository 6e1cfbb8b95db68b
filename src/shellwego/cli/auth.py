"""`shellwego auth`: signing in and out."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from shellwego.cli.groups import group
from shellwego.cli.here import Here, command
from shellwego.core.errors import InvalidField

app = group("Sign in and out.")


@command(app, "login")
async def login(
    here: Here,
    email: Annotated[str | None, typer.Option("--email", metavar="EMAIL", help="Who you are; asked if needed.")] = None,
    password_stdin: Annotated[
        bool,
        typer.Option(
            "--password-stdin", help="Read the password from stdin; before it may stand a line with the address."
        ),
    ] = False,
    token_stdin: Annotated[
        bool, typer.Option("--token-stdin", help="Sign in with an API token, read from stdin.")
    ] = False,
) -> None:
    """
    Sign in to a cloud. It is remembered, for you alone, until `auth logout`.

    \b
    Examples:
      shellwego auth login --url https://api.example.org --email me@example.org
      shellwego auth login --url http://127.0.0.1:7080 --token-stdin < DIR/admin-token
    """
    from shellwego.client import LoginStore, TokenCredential, connect
    from shellwego.client.credentials import StoredLogin, from_session
    from shellwego.client.transport import checked_url
    from shellwego.kit.clock import utc_now

    store = LoginStore()
    current = store.current()
    url = here.settings.url or (current.url if current else None) or _ask(here, "URL of the cloud's API", "url")
    url = checked_url(url)
    ca = here.settings.ca.resolve() if here.settings.ca else None
    remembered = StoredLogin(url, ca=str(ca) if ca else None)
    token = sys.stdin.readline().strip() if token_stdin else here.settings.token
    if token:
        async with connect(url, TokenCredential(token), ca=ca, http=here.http) as cloud:
            me = await cloud.auth.me()
        remembered = StoredLogin(url, me.email, token=token, ca=remembered.ca)
    else:
        given = sys.stdin.read().splitlines() if password_stdin else []
        if email is None and len(given) > 1:
            email = given.pop(0)  # As in DIR/admin-password: the address, then the password.
        email = email or _ask(here, "Email", "email")
        password = (given[0] if given else "") if password_stdin else _ask_password(here)
        async with connect(url, ca=ca, http=here.http) as cloud:
            session = await cloud.auth.login(email, password)
        remembered = from_session(StoredLogin(url, email, ca=remembered.ca), session, utc_now)
        async with connect(url, TokenCredential(session.access_token), ca=ca, http=here.http) as cloud:
            me = await cloud.auth.me()
    async with store.locked():
        store.save(remembered, make_current=True)
    here.output.say(f"Signed in to {url} as {me.email}, of {me.organisation_name}.")
    if os.environ.get("SHELLWEGO_TOKEN") or os.environ.get("SHELLWEGO_URL"):
        here.output.say("Note: SHELLWEGO_URL or SHELLWEGO_TOKEN is set in this shell and goes before it.", "yellow")
    here.output.one(me, [("user", me.email), ("organisation", me.organisation_name),
                         ("operator", "yes" if me.operator else "no")])  # fmt: skip


@command(app, "status")
async def status(here: Here) -> None:
    """
    Say to which cloud you are signed in, and as whom.

    \b
    Example:
      shellwego auth status
    """
    async with here.cloud() as cloud:
        me = await cloud.auth.me()
        url = cloud.url
    facts = [
        ("cloud", url),
        ("user", me.email),
        ("organisation", me.organisation_name),
        ("operator", "yes" if me.operator else "no"),
        ("by token", me.token or ""),
    ]
    if here.output.for_people:
        here.output.one(me, [(fact, value) for fact, value in facts if value])
    else:
        here.output.document({"url": url, **me.model_dump(mode="json")})


@command(app, "logout")
async def logout(here: Here) -> None:
    """
    End the session, there and here.

    \b
    Example:
      shellwego auth logout
    """
    from pathlib import Path

    from shellwego.client import CannotReach, LoginStore, Refused, connect
    from shellwego.client.transport import checked_url

    store = LoginStore()
    login = store.current() if here.settings.url is None else store.find(checked_url(here.settings.url))
    if login is None:
        here.output.say("You are not signed in.")
        return
    async with store.locked():
        login = store.find(login.url) or login  # Another process may have renewed it.
        if login.is_session:
            try:
                ca = Path(login.ca) if login.ca else None
                async with connect(login.url, ca=ca, patience_seconds=0, http=here.http) as cloud:
                    await cloud.auth.logout(login.refresh_token)
            except (CannotReach, Refused) as error:
                here.output.say(f"The cloud wasn't told ({error}); its side of the session ends by itself.", "yellow")
        store.forget(login.url)
    here.output.say(f"Signed out of {login.url}.")


def _ask(here: Here, what: str, field: str) -> str:
    if not sys.stdin.isatty():
        raise InvalidField(field, f"give it with --{field}: nobody can be asked here.")
    return str(typer.prompt(what, err=True)).strip()


def _ask_password(here: Here) -> str:
    if not sys.stdin.isatty():
        raise InvalidField("password", "pipe it in with --password-stdin: nobody can be asked here.")
    return str(typer.prompt("Password", hide_input=True, err=True))
