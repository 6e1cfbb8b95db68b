"""What can this node carry, and what should its operator know?

Capacity is what instances may use: the machine's memory (or our own cgroup's, when that is less) minus a share for the
kernel, the platform's processes and the builder. Warnings are about now, in words that say what to do.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from shellwego.core.nodes import MEND_THE_DISK
from shellwego.core.quantities import MIB
from shellwego.kit.disks import Disk, look_at_disk
from shellwego.protocol.messages import NodeCapacity

LOW_DISK_SHARE = 0.10
_READ_ONLY = f"The data directory's file system is read-only. {MEND_THE_DISK}"
_RESERVED_SHARE, _RESERVED_MIB = 0.10, (256, 2048)
_CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


@dataclass(frozen=True, slots=True)
class DataDisk:
    """The file system of the data directory at one look, or why there was nothing to be seen."""

    disk: Disk | None
    out_of_reach: str = ""

    @property
    def used_share(self) -> float:
        return self.disk.used_share if self.disk else 0.0

    @property
    def fault(self) -> str:
        """Why nothing can be written there, "" when something can."""
        return _READ_ONLY if self.disk and self.disk.read_only else self.out_of_reach

    def warnings(self) -> list[str]:
        """What is wrong with the disk now."""
        warnings, disk = [self.fault] if self.fault else [], self.disk
        if disk and disk.size_bytes and disk.free_bytes < LOW_DISK_SHARE * disk.size_bytes:
            warnings.append(
                f"The disk is {100 * disk.used_share:.0f} % full ({disk.free_bytes // MIB} MiB left). "
                f"Free space or grow it: at the end nothing new can start."
            )
        if disk and disk.inodes and disk.free_inodes < LOW_DISK_SHARE * disk.inodes:
            warnings.append(f"The file system has only {disk.free_inodes} inodes left. Delete small files or grow it.")
        return warnings


def look_at_data(directory: Path) -> DataDisk:
    try:
        return DataDisk(look_at_disk(directory))
    except OSError as error:
        return DataDisk(None, f"The data directory can't be reached: {error.strerror}. Check its disk.")


def read_capacity(
    data: DataDisk, *, meminfo: Path = Path("/proc/meminfo"), limits: Iterable[Path] = _CGROUP_LIMITS
) -> NodeCapacity:
    """The node's capacity now."""
    total_mib = min([_total_memory(meminfo), *(limit for path in limits if (limit := _limit(path)))]) // MIB
    disk = data.disk
    return NodeCapacity(
        memory_mib=max(0, total_mib - reserved_mib(total_mib)),
        cpu_millis=len(os.sched_getaffinity(0)) * 1000,
        disk_free_mib=disk.free_bytes // MIB if disk else 0,
        disk_total_mib=disk.size_bytes // MIB if disk else 0,
    )


def reserved_mib(total_mib: int) -> int:
    """The platform's own share: a tenth, at least 256 MiB, at most 2 GiB."""
    least, most = _RESERVED_MIB
    return min(most, max(least, int(total_mib * _RESERVED_SHARE)))


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
