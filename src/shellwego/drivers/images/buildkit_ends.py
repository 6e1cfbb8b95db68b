"""How does a lane of the builder go away by its names alone, whoever started it?

A killed server remembers none of its lanes; the next one finds them by the namespaces and control groups that carry the
cloud's short name, and by the files in their directories. `buildkit_lane` ends its own in the same way.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from shellwego.core.errors import EngineMissing
from shellwego.drivers.images import buildkit_network
from shellwego.drivers.images.buildkit_cgroup import BuildGroup
from shellwego.kit.commands import CommandFailed, run_command
from shellwego.kit.faults import fault_point, reach

KILLED = fault_point("builder.lane.killed")
NAMESPACE_GONE = fault_point("builder.lane.namespace_gone")

NAMESPACES = Path("/run/netns")
STORAGE = "storage.ext4"
MAY_HOLD_SECRETS = "may-hold-secrets"
_END_TRIES = 3


def namespace_prefix(prefix: str) -> str:
    """How the network namespace of every lane of a cloud begins; the cloud's part has a fixed length."""
    return f"swg-{prefix}-build-"


def cgroup_parent(prefix: str) -> PurePosixPath:
    return PurePosixPath("shellwego") / prefix / "build"


async def end_lane(group: BuildGroup, namespace: str) -> None:
    """End a lane by its names alone, whoever started it."""
    for attempt in range(_END_TRIES):
        if not await asyncio.to_thread(group.kill):
            raise EngineMissing("buildkit", f"Processes of {group.path} survive SIGKILL; the kernel holds them.")
        await reach(KILLED)
        if (NAMESPACES / namespace).exists():
            with contextlib.suppress(CommandFailed):
                await run_command(buildkit_network.namespace_delete(namespace))
        await reach(NAMESPACE_GONE)
        try:
            await asyncio.to_thread(group.remove)
        except OSError:
            # A process that was being started while we killed the others has joined since. It is alone now.
            if attempt == _END_TRIES - 1:
                raise
        else:
            return


async def end_stale_lanes(prefix: str, *, running: Collection[str] = ()) -> tuple[str, ...]:
    """End every lane of this cloud that a killed server left, but for those named. Returns the names it ended."""
    parent = BuildGroup(cgroup_parent(prefix))
    names = set(parent.children())
    begin = namespace_prefix(prefix)
    if NAMESPACES.is_dir():
        names.update(p.name.removeprefix(begin) for p in NAMESPACES.iterdir() if p.name.startswith(begin))
    stale = sorted(names - set(running))
    for name in stale:
        await end_lane(BuildGroup(cgroup_parent(prefix) / name), begin + name)
    return tuple(stale)


def forget_unforgotten(lanes: Path, *, running: Collection[str]) -> None:
    """
    Throw away the caches that a killed server could not clean of what secret steps had printed. Their daemons must
    have ended. `running` are the names of lanes that see to it themselves.
    """
    for marker in lanes.glob(f"*/{MAY_HOLD_SECRETS}"):
        if marker.parent.name not in running:
            forget_storage(marker.parent)


def forget_storage(lane: Path) -> None:
    (lane / STORAGE).unlink(missing_ok=True)
    (lane / MAY_HOLD_SECRETS).unlink(missing_ok=True)  # Last, so that a kill in between is no end of it.
