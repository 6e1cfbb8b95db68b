"""Can anything still be written where we keep things?

One look at the file system that holds a path. The numbers are what an unprivileged program may use; `read_only` is
also true for a file system that the kernel has stopped writing to after an error, which statvfs(2) doesn't tell since
Linux 6.15 (ext4 calls it `emergency_ro` in /proc/self/mountinfo).
"""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import dataclass
from pathlib import Path

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""What the kernel says when a disk, its inodes or a quota are used up."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_KINDS = ("ext4", "xfs")
_STOPPED = frozenset({"ro", "emergency_ro", "shutdown"})


@dataclass(frozen=True, slots=True)
class Disk:
    """A file system now. Without a fixed number of inodes (btrfs) both counts are 0."""

    free_bytes: int
    size_bytes: int
    free_inodes: int
    inodes: int
    read_only: bool

    @property
    def used_share(self) -> float:
        return 1 - self.free_bytes / self.size_bytes if self.size_bytes else 0.0


def look_at_disk(path: Path, *, mountinfo: Path = Path("/proc/self/mountinfo")) -> Disk:
    """Raises OSError when the path can't be reached."""
    status = os.statvfs(path)
    return Disk(
        free_bytes=status.f_bavail * status.f_frsize,
        size_bytes=status.f_blocks * status.f_frsize,
        free_inodes=status.f_favail,
        inodes=status.f_files,
        read_only=bool(status.f_flag & os.ST_RDONLY) or _has_stopped(path.stat().st_dev, mountinfo),
    )


def life_of_mount(path: Path, *, system: Path = Path("/sys")) -> str:
    """
    A name for the time from one mounting of the path's file system to the next: what the kernel held of it, and had not
    written, ends with that. Of a kind of file system whose mounts can't be told apart it is the name of this boot.

    A mount's id won't do: the next mount gets it again. But ext4 and XFS have a folder below /sys/fs while they are
    mounted, however often and in whichever namespace, and the kernel gives no inode number there twice.
    """
    boot, device = _BOOT_ID.read_text().strip(), path.stat().st_dev
    name = (system / "dev" / "block" / f"{os.major(device)}:{os.minor(device)}").resolve().name
    for kind in _KINDS:
        with contextlib.suppress(FileNotFoundError):
            return f"{boot}-{(system / 'fs' / kind / name).stat().st_ino}"
    return boot


def _has_stopped(device: int, mountinfo: Path) -> bool:
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in mountinfo.read_text(errors="replace").splitlines():
        mount, _, of_the_file_system = line.partition(" - ")
        if mount.split()[2] == number:
            # proc_pid_mountinfo(5): type, source, options of the super block.
            return not _STOPPED.isdisjoint(of_the_file_system.split()[-1].split(","))
    return False
