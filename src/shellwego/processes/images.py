"""`shellwego images bootstrap`: make the base images of a cloud on this machine, or make them anew."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from shellwego.processes.base_images import ensure_base_images
from shellwego.processes.cloud import load_cloud
from shellwego.processes.engines_found import find_engines
from shellwego.processes.host_command import DEFAULT_DATA, DataDir, need_root, only_one, told


def bootstrap(
    data_dir: DataDir = DEFAULT_DATA,
    refresh: Annotated[bool, typer.Option(help="Make them anew, with the packages of today.")] = False,
) -> None:
    """
    Make the base images (Debian, Python, Node, static web server) from Debian's packages; no hub is needed.

    The cloud must not be running. `shellwego up` does this by itself at its first start.

    Example: shellwego images bootstrap --refresh
    """
    need_root("Making images")
    with told("shellwego images bootstrap"):
        cloud = load_cloud(data_dir.absolute())
        with only_one(cloud):
            asyncio.run(
                ensure_base_images(cloud, find_engines(), say=lambda line: typer.echo(line, err=True), refresh=refresh)
            )
        typer.echo("The base images are here.", err=True)
