"""`shellwego apps`: what there is, and whether it shall run."""

from __future__ import annotations

import sys
import uuid
from typing import TYPE_CHECKING, Annotated

import typer

from shellwego.cli.following import check_succeeded, follow
from shellwego.cli.groups import App, Wait, group, now
from shellwego.cli.here import Here, command
from shellwego.cli.output import Column, age
from shellwego.cli.waiting import Timeout, wait_until_gone, wait_until_running, wait_until_stopped
from shellwego.core.errors import InvalidField

if TYPE_CHECKING:
    from shellwego.protocol.public import App as AppAnswer

app = group("Create, list, stop, start, restart and delete apps.")


@command(app, "list")
async def list_apps(here: Here) -> None:
    """
    List the apps.

    \b
    Examples:
      shellwego apps list
      shellwego apps list -o json | jq -r '.[].name'
    """
    async with here.cloud() as cloud:
        apps = [found async for found in cloud.apps.list()]
    columns = [Column("NAME"), Column("STATUS"), Column("INSTANCES", cut=True), Column("RELEASE"),
               Column("URL", drop=1), Column("AGE", right=True, drop=2)]  # fmt: skip
    rows = [(a.name, a.status.value, instances_of(a), a.release or "-", a.url, age(a.created_at, now())) for a in apps]
    here.output.many(apps, columns, rows, if_none="There is no app yet. Try: shellwego deploy . --name hello")


@command(app, "get")
async def get(here: Here, name: Annotated[str, App]) -> None:
    """
    Show one app.

    \b
    Example:
      shellwego apps get hello
    """
    async with here.cloud() as cloud:
        found = await cloud.apps.get(name)
    show(here, found)


@command(app, "create")
async def create(here: Here, name: Annotated[str, typer.Argument(metavar="NAME", show_default=False)]) -> None:
    """
    Create an app without deploying anything yet: to set its config first, say.

    \b
    Example:
      shellwego apps create hello
    """
    async with here.cloud() as cloud:
        made = await cloud.apps.create(name, idempotency_key=uuid.uuid4().hex)
    changed(here, made, f"Created {made.name}.\n  → shellwego deploy . --name {made.name}")


@command(app, "stop")
async def stop(
    here: Here, name: Annotated[str, App], wait: Annotated[bool, Wait] = False, timeout: Timeout = 300
) -> None:
    """
    Stop an app. It keeps its name, releases and config.

    \b
    Example:
      shellwego apps stop hello --wait
    """
    async with here.cloud() as cloud:
        found = await cloud.apps.stop(name)
        if wait:
            found = await wait_until_stopped(here, cloud, name, timeout)
    changed(here, found, f"{found.name} is stopped." if wait else f"{found.name} is being stopped.")


@command(app, "start")
async def start(
    here: Here, name: Annotated[str, App], wait: Annotated[bool, Wait] = False, timeout: Timeout = 300
) -> None:
    """
    Start an app that was stopped.

    \b
    Example:
      shellwego apps start hello --wait
    """
    async with here.cloud() as cloud:
        found = await cloud.apps.start(name)
        if wait:
            found = await wait_until_running(here, cloud, name, timeout)
    changed(here, found, f"{found.name} runs." if wait else f"{found.name} is being started.")


@command(app, "restart")
async def restart(
    here: Here, name: Annotated[str, App], wait: Annotated[bool, Wait] = False, timeout: Timeout = 300
) -> None:
    """
    Replace an app's instances by fresh ones, without a gap.

    \b
    Example:
      shellwego apps restart hello --wait
    """
    async with here.cloud() as cloud:
        before = (await cloud.apps.get(name)).deployment
        found = await cloud.apps.restart(name, idempotency_key=uuid.uuid4().hex)
        if wait and found.deployment is not None and found.deployment != before:
            deployment = await cloud.deployments.get(name, found.deployment)
            check_succeeded(await follow(here, cloud, deployment, name), name)
            found = await cloud.apps.get(name)
        elif wait:
            found = await wait_until_running(here, cloud, name, timeout)
    changed(here, found, f"{found.name} was restarted." if wait else f"{found.name} is being restarted.")


@command(app, "delete")
async def delete(
    here: Here,
    name: Annotated[str, App],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    wait: Annotated[bool, Wait] = False,
    timeout: Timeout = 300,
) -> None:
    """
    Delete an app with its releases, config and logs. Asks for its name unless --yes.

    \b
    Examples:
      shellwego apps delete hello
      shellwego apps delete hello --yes --wait
    """
    async with here.cloud() as cloud:
        found = await cloud.apps.get(name)
        if not yes:
            if not sys.stdin.isatty():
                raise InvalidField("yes", f"add --yes to delete {found.name} where nobody can be asked.")
            here.output.say(f"This deletes {found.name} with its releases, config and logs. It can't be undone.")
            if typer.prompt(f"Type {found.name} to go on", default="", show_default=False, err=True) != found.name:
                here.output.say("That is not its name. Nothing was deleted.")
                raise typer.Exit(1)
        await cloud.apps.delete(found.id)
        if wait:
            await wait_until_gone(here, cloud, found.id, timeout)
    here.output.say(f"{found.name} is gone." if wait else f"{found.name} is being deleted.")


def changed(here: Here, found: AppAnswer, words: str) -> None:
    """A word for people; the whole app for programs."""
    here.output.say(words)
    if not here.output.for_people:
        here.output.document(found.model_dump(mode="json"))


def show(here: Here, found: AppAnswer) -> None:
    facts = [
        ("name", found.name),
        ("status", found.status.value),
        ("reason", found.status_reason),
        ("url", found.url),
        ("other hosts", ", ".join(host for host in found.hosts if f"//{host}" not in found.url)),
        ("instances", instances_of(found)),
        ("release", found.release or ""),
        ("image", short_image(here, found.image or "")),
        ("deployment", found.deployment or ""),
        ("id", found.id),
        ("age", age(found.created_at, now())),
    ]
    here.output.one(found, [(fact, value) for fact, value in facts if value])


def short_image(here: Here, image: str) -> str:
    """On a terminal the first twelve characters of a digest, enough to tell two apart by eye; in a pipe all of it."""
    name, at, digest = image.rpartition("sha256:")
    return f"{name}{at}{digest[:12]}" if at and here.output.results.is_terminal else image


def instances_of(found: AppAnswer) -> str:
    """`web 2/3, worker 1/1`: healthy of desired. A Procfile's `release:` that nobody wants to run on isn't told."""
    shown = (
        f"{name} {p.healthy}/{p.desired}"
        for name, p in sorted(found.processes.items())
        if name != "release" or p.desired or p.total
    )
    return ", ".join(shown) or "-"
