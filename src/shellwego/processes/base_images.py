"""Which images are here before anybody deploys?

The bases that our own Dockerfiles start from, made of Debian's packages once per machine; a second cloud takes them
over in seconds. Where no hub answers, they also stand in for the public images of the same kind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog

from shellwego.core.errors import ShellWeGoError
from shellwego.drivers.engines.places import install_directory
from shellwego.drivers.images.bootstrap import IMAGES, bootstrap_images, default_mappings
from shellwego.drivers.images.port import ImageStore
from shellwego.kit.files import replace_file
from shellwego.processes.cloud import Cloud
from shellwego.processes.engines_found import Engines
from shellwego.processes.parts import make_builder, make_images

log = structlog.get_logger()

_HUB_IMAGE = "docker.io/library/busybox:latest"
_HUB_SECONDS = 5.0


def images_directory() -> Path:
    """Where base images are kept for every cloud of this machine."""
    return install_directory().parent / "images"


async def ensure_base_images(
    cloud: Cloud, engines: Engines, *, say: Callable[[str], None], refresh: bool = False
) -> None:
    """
    Every base image is in the cloud's store. `refresh` makes them anew, with the packages of today.
    Raises EngineMissing, BuildFailed, DiskFull.
    """
    marker = cloud.images / "base-images.json"
    if marker.exists() and not refresh:
        return
    images = make_images(cloud)
    builder = make_builder(cloud, engines, images)
    say("Preparing the base images. The first time on a machine this takes a few minutes, later seconds.")

    def progress(line: str) -> None:
        # What each step of a build prints is for the log; people want to know that it goes on, and how far it is.
        if ": #" in line and " DONE" not in line and "] " not in line:
            log.info("base_image.build", line=line)
        else:
            say(f"  {line}")

    try:
        await builder.end_stale()
        made = await bootstrap_images(
            store=images, builder=builder, directory=images_directory(), on_progress=progress, refresh=refresh
        )
    finally:
        await builder.close()
    if not cloud.admin_token.exists() and not await reaches_hub(images):
        say("No image hub is reached from here: names such as python:3.11 will mean this cloud's own images.")
        replace_file(cloud.first_mappings, msgspec.json.encode(dict(default_mappings())))
    replace_file(marker, msgspec.json.encode({one.name: one.image.digest for one in made}))
    assert {one.name for one in made} == set(IMAGES)


async def reaches_hub(images: ImageStore) -> bool:
    """Whether the public hub answers."""
    try:
        async with asyncio.timeout(_HUB_SECONDS):
            await images.resolve(_HUB_IMAGE)
    except (ShellWeGoError, TimeoutError) as error:
        log.info("hub.not_reached", why=str(error))
        return False
    return True
