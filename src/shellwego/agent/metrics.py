"""What can this node carry, and what should its operator know?

Capacity is what instances may use: the machine's memory (or our own cgroup's, when that is less) minus a share for the
kernel, the platform's processes and the builder. Warnings are about now, in words that say what to do.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from pathlib import Path

from shellwego.core.quantities import MIB
from shellwego.kit.disks import look_at_disk
from shellwego.protocol.messages import NodeCapacity

LOW_DISK_SHARE = 0.10
_READ_ONLY = "The data directory's file system is read-only. Apps go on; check the disk, then remount it."
_RESERVED_SHARE, _RESERVED_MIB = 0.10, (256, 2048)
_CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def read_capacity(
    data: Path, *, meminfo: Path = Path("/proc/meminfo"), limits: Iterable[Path] = _CGROUP_LIMITS
) -> NodeCapacity:
    """The node's capacity now; disk is that of the file system which holds `data`."""
    total_mib = min([_total_memory(meminfo), *(limit for path in limits if (limit := _limit(path)))]) // MIB
    free, size = _disk(data)
    return NodeCapacity(
        memory_mib=max(0, total_mib - reserved_mib(total_mib)),
        cpu_millis=len(os.sched_getaffinity(0)) * 1000,
        disk_free_mib=free // MIB,
        disk_total_mib=size // MIB,
    )


def reserved_mib(total_mib: int) -> int:
    """The platform's own share: a tenth, at least 256 MiB, at most 2 GiB."""
    least, most = _RESERVED_MIB
    return min(most, max(least, int(total_mib * _RESERVED_SHARE)))


def disk_used_share(data: Path) -> float:
    try:
        return look_at_disk(data).used_share
    except OSError:
        return 0.0


def disk_fault(data: Path) -> str:
    """Why nothing can be written there, "" when something can."""
    try:
        return _READ_ONLY if look_at_disk(data).read_only else ""
    except OSError as error:
        return _out_of_reach(error)


def disk_warnings(data: Path) -> list[str]:
    """What is wrong with the disk now."""
    try:
        disk = look_at_disk(data)
    except OSError as error:
        return [_out_of_reach(error)]
    warnings = [_READ_ONLY] if disk.read_only else []
    if disk.size_bytes and disk.free_bytes < LOW_DISK_SHARE * disk.size_bytes:
        warnings.append(
            f"The disk is {100 * disk.used_share:.0f} % full ({disk.free_bytes // MIB} MiB left). "
            f"Free space or grow it: at the end nothing new can start."
        )
    if disk.inodes and disk.free_inodes < LOW_DISK_SHARE * disk.inodes:
        warnings.append(f"The file system has only {disk.free_inodes} inodes left. Delete small files or grow it.")
    return warnings


def _out_of_reach(error: OSError) -> str:
    return f"The data directory can't be reached: {error.strerror}. Check its disk."


def node_name() -> str:
    return socket.gethostname()[:63] or "node"


def _total_memory(meminfo: Path) -> int:
    for line in meminfo.read_text().splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"{meminfo} names no MemTotal")


def _limit(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None  # "max" is no limit; v1 writes a huge number for none.


def _disk(data: Path) -> tuple[int, int]:
    try:
        disk = look_at_disk(data)
    except OSError:
        return 0, 0
    return disk.free_bytes, disk.size_bytes
