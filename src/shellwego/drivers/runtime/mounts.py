"""How does a sandbox see an image that nobody can write to, and where do its own writes go?

An image's folder is shared and only ever the lowest layer of a read-only overlay. Above it lie empty *points*, where
the workload's own files are mounted: a runtime would otherwise make those mount points in the image itself (runsc's
gofer does). gVisor keeps its writable layer itself; for runc it is a small file system in a sparse file (layers.py),
since neither tmpfs (it would count as the app's memory) nor quotas (few file systems have them) bound it as well.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from shellwego.drivers.runtime.inside import find_inside

_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_NOATIME = 1, 2, 4, 8, 1024
_MS_SHARED = 1 << 20
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8

_libc = ctypes.CDLL(None, use_errno=True)


def mount_tmpfs(path: Path, *, size_mib: int) -> None:
    """
    A tmpfs for root alone. Its mounts reach every mount namespace: without that, a process that got a copy of ours
    (`ip netns exec` makes one) would keep each sandbox's file system busy after we unmounted it.
    """
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    _mount("tmpfs", path, "tmpfs", _MS_NOSUID | _MS_NODEV, f"mode=0700,size={size_mib}m")
    _mount("none", path, "", _MS_SHARED, "")


def mount_read_only(target: Path, *, points: Path, rootfs: Path) -> None:
    """The image, with the points over it. An overlay without an upper layer can't be written by anybody."""
    with _opened(points, rootfs) as (upper, lower):
        _mount("overlay", target, "overlay", _MS_RDONLY | _MS_NODEV, f"lowerdir={upper}:{lower}")


def mount_writable(target: Path, *, layer: Path, points: Path, rootfs: Path) -> None:
    """The same, with a private layer that takes the writes. `layer` is the root of a file system of its own."""
    upper, work = layer / "upper", layer / "work"
    work.mkdir()
    upper.mkdir()
    _copy_owner(rootfs, upper)
    with _opened(points, rootfs, upper, work) as (over, under, writes, scratch):
        options = f"lowerdir={over}:{under},upperdir={writes},workdir={scratch}"
        _mount("overlay", target, "overlay", _MS_NODEV | _MS_NOSUID, options)


def mount_device(device: str, target: Path, kind: str, options: str) -> None:
    """A file system that an app may write to, and that gives it no power over the host."""
    _mount(device, target, kind, _MS_NOSUID | _MS_NODEV | _MS_NOATIME, options)


def unmount(path: Path) -> None:
    """Nothing is mounted there afterwards, not even twice. Raises OSError only if the kernel refuses."""
    while _libc.umount2(os.fsencode(path), _MNT_DETACH | _UMOUNT_NOFOLLOW) == 0:
        pass
    error = ctypes.get_errno()
    if error not in (errno.EINVAL, errno.ENOENT):
        raise OSError(error, os.strerror(error), str(path))


def is_mounted(path: Path) -> bool:
    """Whether something is mounted exactly there."""
    return path.is_mount()


def make_points(points: Path, rootfs: Path, files: Iterable[str]) -> dict[str, str]:
    """
    Make an empty file in `points` for each path, beneath folders that look like the image's own, and say where each
    path really is inside: in the image, /etc/ssl may be a link to elsewhere.
    """
    points.mkdir()
    _copy_owner(rootfs, points)
    real = {}
    for file in files:
        inside = _real_path(rootfs, file)
        folder = points
        for name in inside.parts[1:-1]:
            folder /= name
            if not folder.exists():
                folder.mkdir(mode=0o755)
                _copy_owner(rootfs / folder.relative_to(points), folder)
        (folder / inside.name).touch(mode=0o644)
        real[file] = str(inside)
    return real


def _real_path(rootfs: Path, file: str) -> PurePosixPath:
    """The folder's links are followed; the file itself is what we put there, even over a link."""
    path = PurePosixPath(os.path.normpath("/" + file.lstrip("/")))
    existing, missing = path.parent, list[str]()
    while (found := find_inside(rootfs, str(existing))) is None or not stat.S_ISDIR(found[1].st_mode):
        missing.insert(0, existing.name)
        existing = existing.parent
    return PurePosixPath(found[0], *missing, path.name)


def _copy_owner(source: Path, target: Path) -> None:
    """A merged folder shows the owner and mode of its uppermost layer."""
    with contextlib.suppress(FileNotFoundError):
        found = source.lstat()
        if stat.S_ISDIR(found.st_mode):
            os.chown(target, found.st_uid, found.st_gid)
            target.chmod(stat.S_IMODE(found.st_mode))


@contextlib.contextmanager
def _opened(*folders: Path) -> Iterator[list[str]]:
    """
    Names of these folders for overlayfs's options, which an app reads in its /proc/self/mountinfo: a descriptor's
    number tells it nothing of where things are on the host, and has no comma or colon that would mean something.
    """
    descriptors = [os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for folder in folders]
    try:
        yield [f"/proc/self/fd/{descriptor}" for descriptor in descriptors]
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _mount(source: str, target: Path, kind: str, flags: int, options: str) -> None:
    if (
        _libc.mount(source.encode(), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), os.fsencode(options))
        != 0
    ):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), str(target))
