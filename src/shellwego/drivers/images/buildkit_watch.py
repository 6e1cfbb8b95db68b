"""When must a build be ended for what it takes?

When the kernel has ended a part of it for want of memory, and when it is about to take the last room on the disk under
all lanes. Whoever is ended goes with all of its lane's processes.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from shellwego.drivers.images.buildkit_cgroup import BuildGroup

KEPT_FREE_MIB = 256
"""The database and the apps need some room, too."""
_LOOK_SECONDS = 0.2
"""At this pace a disk of one gigabyte per second can't jump over what is kept free."""


async def watch_memory(group: BuildGroup, killed_before: int) -> None:
    """
    End the build when the kernel ended a part of it for want of memory. gVisor may hang instead of ending when the
    process that was chosen is not its own kernel.
    """
    while group.kills_by_memory() <= killed_before:  # noqa: ASYNC110 - the kernel's counter sets no event
        await asyncio.sleep(0.5)
    await asyncio.to_thread(group.kill)


async def watch_room(group: BuildGroup, directory: Path, ended: asyncio.Event) -> None:
    """
    End the build, and set `ended`, when the disk under all of them is nearly full, long before its own limit may be
    reached.
    """
    while free_mib(directory) >= KEPT_FREE_MIB:  # noqa: ASYNC110 - a disk sets no event
        await asyncio.sleep(_LOOK_SECONDS)
    ended.set()
    await asyncio.to_thread(group.kill)


def free_mib(path: Path) -> int:
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free >> 20
