"""`shellwego releases`: what was released, and can be gone back to."""

from __future__ import annotations

from typing import Annotated

from shellwego.cli.apps import short_image
from shellwego.cli.groups import App, group, now
from shellwego.cli.here import Here, command
from shellwego.cli.output import Column, age
from shellwego.core.deployments import DeploymentKind

app = group("List what was released.")


@command(app, "list")
async def list_releases(here: Here, name: Annotated[str, App]) -> None:
    """
    List an app's releases, newest first, and what became of each.

    \b
    Example:
      shellwego releases list hello
    """
    async with here.cloud() as cloud:
        releases = [release async for release in cloud.releases.list(name)]
    columns = [Column("RELEASE"), Column("STATE"), Column("IMAGE", cut=True), Column("CONFIG", cut=True),
               Column("BY", cut=True, drop=2), Column("NOTE", cut=True, drop=1), Column("AGE", right=True)]  # fmt: skip
    rows = [
        (
            r.label,
            f"{r.state.value} (rollback)" if r.deployed_as is DeploymentKind.ROLLBACK else r.state.value,
            short_image(here, r.image),
            ",".join(r.config_keys) or "-",
            r.created_by or "-",
            r.note or "-",
            age(r.created_at, now()),
        )
        for r in releases
    ]
    here.output.many(releases, columns, rows, if_none=f"{name} has no release yet. Try: shellwego deploy . -n {name}")
