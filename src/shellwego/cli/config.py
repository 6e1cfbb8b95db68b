"""`shellwego config`: an app's environment variables."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shellwego.cli.following import check_succeeded, follow, outcome
from shellwego.cli.groups import App, Wait, group
from shellwego.cli.here import Here, command
from shellwego.cli.output import Column, counted
from shellwego.cli.pairs import parse_env_file, parse_pairs
from shellwego.core.apps import check_config
from shellwego.core.errors import InvalidField, NotFound

if TYPE_CHECKING:
    from shellwego.client import Cloud

app = group("Set an app's environment variables.")


@command(app, "set")
async def set_config(
    here: Here,
    name: Annotated[str, App],
    pairs: Annotated[list[str], typer.Argument(metavar="K=V", help="K=@FILE takes a file's text.", show_default=False)],
    wait: Annotated[bool, Wait] = False,
) -> None:
    """
    Set variables, all in one new release. A running app gets them by a rolling deployment.

    \b
    Examples:
      shellwego config set hello MODE=production DEBUG= --wait
      shellwego config set hello TLS_KEY=@key.pem
    """
    await _change(here, name, check_config(parse_pairs(pairs, field="config")), wait=wait)


@command(app, "unset")
async def unset(
    here: Here,
    name: Annotated[str, App],
    keys: Annotated[list[str], typer.Argument(metavar="KEY", show_default=False)],
    wait: Annotated[bool, Wait] = False,
) -> None:
    """
    Unset variables, all in one new release.

    \b
    Example:
      shellwego config unset hello DEBUG --wait
    """
    async with here.cloud() as cloud:
        known = (await cloud.configs.get(name)).values
    unknown = [key for key in keys if key not in known]
    if unknown:  # Most likely a slip: a release that changes nothing would hide it.
        raise NotFound("variable", unknown[0])
    await _change(here, name, dict.fromkeys(keys), wait=wait)


@command(app, "import")
async def import_config(
    here: Here,
    name: Annotated[str, App],
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A .env file; `-` or nothing is stdin.", show_default=False)
    ] = Path("-"),
    wait: Annotated[bool, Wait] = False,
) -> None:
    """
    Set the variables of a .env file. What it doesn't name stays.

    \b
    Examples:
      shellwego config import hello .env
      vault-print hello | shellwego config import hello
    """
    if str(file) == "-" and sys.stdin.isatty():
        here.output.say("Reading KEY=VALUE lines; Ctrl-D ends.")
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text("utf-8")
    except OSError as error:
        raise InvalidField("file", f"{file} can't be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise InvalidField("file", f"{file} is not UTF-8 text.") from error
    values = check_config(parse_env_file(text))
    if not values:
        raise InvalidField("file", "holds no KEY=VALUE line.")
    await _change(here, name, values, wait=wait)


@command(app, "list")
async def list_config(
    here: Here,
    name: Annotated[str, App],
    env: Annotated[bool, typer.Option("--env", help="As a .env file, for `config import`.")] = False,
) -> None:
    """
    List the variables of the current release.

    \b
    Examples:
      shellwego config list hello
      shellwego config list hello --env > hello.env
    """
    async with here.cloud() as cloud:
        found = await cloud.configs.get(name)
    values = sorted(found.values.items())
    if not here.output.for_people:
        here.output.document(dict(values))
    elif env:
        for key, value in values:
            here.output.raw(f"{key}={_quoted(value)}")
    elif values:
        here.output.table([Column("KEY"), Column("VALUE", cut=True)], values)
    else:
        here.output.say(f"{name} has no config. Try: shellwego config set {name} KEY=VALUE")


@command(app, "get")
async def get_config(
    here: Here, name: Annotated[str, App], key: Annotated[str, typer.Argument(metavar="KEY", show_default=False)]
) -> int | None:
    """
    Print one variable's value.

    \b
    Example:
      shellwego config get hello MODE
    """
    async with here.cloud() as cloud:
        found = await cloud.configs.get(name)
    if key not in found.values:
        raise NotFound("variable", key)
    if here.output.for_people:
        here.output.raw(found.values[key])
    else:
        here.output.document({key: found.values[key]})
    return None


async def _change(here: Here, name: str, values: Mapping[str, str | None], *, wait: bool) -> None:
    async with here.cloud() as cloud:
        before = await cloud.apps.get(name)
        config = await cloud.configs.change(name, values, idempotency_key=uuid.uuid4().hex)
        did = counted(len(values), "variable")
        here.output.say(f"Changed {did} of {name}{f': {config.release}' if config.release else ''}.")
        after = await cloud.apps.get(name)
        if after.deployment is not None and after.deployment != before.deployment:
            await _deployed(here, cloud, name, after.deployment, wait=wait)
        elif after.release is None:
            here.output.say(f"They hold from its next deployment on.\n  → shellwego deploy . --name {name}")
    if not here.output.for_people:
        here.output.document(config.model_dump(mode="json"))


async def _deployed(here: Here, cloud: Cloud, name: str, deployment_id: str, *, wait: bool) -> None:
    if not wait:
        here.output.say(f"  → shellwego deployments follow {name}  (it is being deployed)")
        return
    deployment = await cloud.deployments.get(name, deployment_id)
    deployment = await follow(here, cloud, deployment, name)
    check_succeeded(deployment, name)
    here.output.say(outcome(deployment, name), style="green")


def _quoted(value: str) -> str:
    if value and all(c.isalnum() or c in "_-./:@%+," for c in value):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return f'"{escaped}"'
