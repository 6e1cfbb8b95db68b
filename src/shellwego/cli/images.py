"""`shellwego images`: which image of this cloud stands in for a public name."""

from __future__ import annotations

from typing import Annotated

import typer

from shellwego.cli.groups import group
from shellwego.cli.here import Here, command
from shellwego.cli.output import Column

app = group("Map public image names to images of this cloud.")

Pattern = Annotated[
    str, typer.Argument(metavar="PATTERN", help="As a Dockerfile names it; * and ? match.", show_default=False)
]


@command(app, "map")
async def map_image(
    here: Here,
    pattern: Pattern,
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="What stands in for it.", show_default=False)],
) -> None:
    """
    Let an image of this cloud stand in for a public name, in builds and deployments.

    \b
    Example:
      shellwego images map 'python:3*' base/python
    """
    async with here.cloud() as cloud:
        made = await cloud.images.map(pattern, image)
    here.output.say(f"{made.image} stands in for {made.pattern}.")


@command(app, "unmap")
async def unmap(here: Here, pattern: Pattern) -> None:
    """
    Let a public name mean the public image again.

    \b
    Example:
      shellwego images unmap 'python:3*'
    """
    async with here.cloud() as cloud:
        await cloud.images.unmap(pattern)
    here.output.say(f"{pattern} is mapped no more.")


@command(app, "mappings")
async def mappings(here: Here) -> None:
    """
    List the mappings.

    \b
    Example:
      shellwego images mappings
    """
    async with here.cloud() as cloud:
        found = [mapping async for mapping in cloud.images.mappings()]
    columns = [Column("PATTERN"), Column("IMAGE", cut=True)]
    rows = [(mapping.pattern, mapping.image) for mapping in found]
    here.output.many(found, columns, rows, if_none="Nothing is mapped: public names mean the public images.")
