"""`shellwego rollback`: an earlier release again, with its image and its config."""

from __future__ import annotations

import uuid
from typing import Annotated

import typer

from shellwego.cli.deployments import finish
from shellwego.cli.groups import App, Wait, single
from shellwego.cli.here import Here, command

app = single()


@command(app, "rollback")
async def rollback(
    here: Here,
    name: Annotated[str, App],
    release: Annotated[
        str, typer.Argument(metavar="vN", help="The release; without it, the one before.", show_default=False)
    ] = "previous",
    wait: Annotated[bool, Wait] = False,
) -> None:
    """
    Go back to an earlier release: its image and its config.

    \b
    Examples:
      shellwego rollback hello --wait
      shellwego rollback hello v3
    """
    from shellwego.protocol.public import DeploymentCreate

    label = f"v{release}" if release.isdigit() else release
    async with here.cloud() as cloud:
        body = DeploymentCreate(release=label)
        deployment = await cloud.deployments.create(name, body, idempotency_key=uuid.uuid4().hex)
        await finish(here, cloud, deployment, name, wait=wait)
