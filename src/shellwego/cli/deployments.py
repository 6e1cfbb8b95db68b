"""`shellwego deployments`: what was and is being deployed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from shellwego.cli.apps import short_image
from shellwego.cli.errors import Failed
from shellwego.cli.following import check_succeeded, follow, outcome
from shellwego.cli.groups import App, group, now
from shellwego.cli.here import Here, command
from shellwego.cli.output import Column, age

if TYPE_CHECKING:
    from shellwego.client import Cloud
    from shellwego.protocol.public import Deployment

app = group("List, follow and cancel deployments.")

Which = Annotated[
    str | None, typer.Argument(metavar="ID", help="The deployment; without it, the newest.", show_default=False)
]


@command(app, "list")
async def list_deployments(here: Here, name: Annotated[str, App]) -> None:
    """
    List an app's deployments, newest first.

    \b
    Example:
      shellwego deployments list hello
    """
    async with here.cloud() as cloud:
        deployments = [deployment async for deployment in cloud.deployments.list(name)]
    columns = [Column("ID"), Column("STATE"), Column("KIND"), Column("RELEASE"), Column("WHY", cut=True),
               Column("AGE", right=True)]  # fmt: skip
    rows = [
        (d.id, d.state.value, d.kind.value, d.release or "-", d.reason or d.step or "-", age(d.created_at, now()))
        for d in deployments
    ]
    here.output.many(deployments, columns, rows, if_none=f"{name} was never deployed.")


@command(app, "get")
async def get(here: Here, name: Annotated[str, App], deployment: Which = None) -> None:
    """
    Show one deployment, and why it failed if it did.

    \b
    Examples:
      shellwego deployments get hello
      shellwego deployments get hello dep_abcdefghijklmnopqrst
    """
    async with here.cloud() as cloud:
        found = await _find(cloud, name, deployment)
    show(here, found)


@command(app, "follow")
async def follow_one(here: Here, name: Annotated[str, App], deployment: Which = None) -> None:
    """
    Watch a deployment to its end. The exit status says whether it succeeded.

    \b
    Example:
      shellwego deployments follow hello
    """
    async with here.cloud() as cloud:
        await finish(here, cloud, await _find(cloud, name, deployment), name, wait=True)


@command(app, "cancel")
async def cancel(here: Here, name: Annotated[str, App], deployment: Which = None) -> None:
    """
    Cancel a deployment that is under way. What served before goes on serving.

    \b
    Example:
      shellwego deployments cancel hello
    """
    async with here.cloud() as cloud:
        found = await _find(cloud, name, deployment)
        found = await cloud.deployments.cancel(name, found.id)
    here.output.say(f"Deployment {found.id} of {name} is {found.state.value}.")
    show(here, found)


async def finish(here: Here, cloud: Cloud, deployment: Deployment, name: str, *, wait: bool) -> None:
    """Follow a deployment to its end, or say how to."""
    if wait:
        deployment = await follow(here, cloud, deployment, name)
        if not here.output.for_people:
            here.output.document(deployment.model_dump(mode="json"))
        check_succeeded(deployment, name)
        if here.output.for_people:
            here.output.say(outcome(deployment, name), style="green")
        return
    under_way(here, deployment, name)


def under_way(here: Here, deployment: Deployment, name: str) -> None:
    """For whoever doesn't wait: how to follow, and the id on stdout."""
    here.output.say(f"The deployment of {name} is under way.")
    here.output.say(f"  → shellwego deployments follow {name}")
    if here.output.for_people:
        here.output.line(deployment.id)
    else:
        here.output.document(deployment.model_dump(mode="json"))


def show(here: Here, found: Deployment) -> None:
    facts = [
        ("deployment", found.id),
        ("state", found.state.value),
        ("step", "" if found.state.is_terminal else found.step),
        ("reason", found.reason),
        ("kind", found.kind.value),
        ("release", found.release or ""),
        ("before", found.previous_release or ""),
        ("image", short_image(here, found.image or "")),
        ("note", found.note),
        ("by", found.created_by),
        ("age", age(found.created_at, now())),
    ]
    here.output.one(found, [(fact, value) for fact, value in facts if value])
    if here.output.for_people:
        for line in found.last_lines:
            here.output.line(f"  {line}")


async def _find(cloud: Cloud, name: str, deployment: str | None) -> Deployment:
    if deployment is None:
        deployment = (await cloud.apps.get(name)).deployment
    if deployment is None:
        raise Failed(f"{name} was never deployed.", next_steps=(f"shellwego deploy . --name {name}",))
    return await cloud.deployments.get(name, deployment)
