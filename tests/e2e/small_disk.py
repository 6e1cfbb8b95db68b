"""A real file system of its own for one cloud, that a test can fill and empty again."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.cloud import eventually

_MIB = 1 << 20
_EXT4_IOC_SHUTDOWN, _WITHOUT_THE_JOURNAL = 0x8004587D, 2


@dataclass(frozen=True, slots=True)
class SmallDisk:
    """ext4 on a loop device. `path` is where it is mounted."""

    path: Path
    image: Path

    def fill(self, *, leave_mib: int = 0) -> None:
        """Something takes all the room but this."""
        self.free()
        descriptor = os.open(self._ballast, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.sync()  # Blocks that are promised to others' dirty pages are not free.
            size = 0
            for step in (64 * _MIB, _MIB, 4096):
                with contextlib.suppress(_NoRoom):
                    while step <= self._free_bytes() - leave_mib * _MIB or leave_mib == 0:
                        _take(descriptor, size, step)
                        size += step
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def kept_full(self) -> Iterator[None]:
        """Not one byte is free, and what anybody gives up is taken at once; there is room again after the block."""
        self.fill()
        stop = threading.Event()
        taking = threading.Thread(target=self._take_what_comes_free, args=(stop,))
        taking.start()
        try:
            yield
        finally:
            stop.set()
            taking.join()
            self.free()

    def _take_what_comes_free(self, stop: threading.Event) -> None:
        descriptor = os.open(self._ballast, os.O_WRONLY)
        try:
            while not stop.wait(0.02):
                with contextlib.suppress(_NoRoom):
                    while not stop.is_set():
                        _take(descriptor, os.fstat(descriptor).st_size, 4096)
        finally:
            os.close(descriptor)

    def free(self) -> None:
        """There is room again."""
        self._ballast.unlink(missing_ok=True)

    def stop_writing(self) -> None:
        """The kernel meets an error in the file system: it ends its journal and writes nothing any more."""
        device = Path("/sys/dev/block", _number(self.path.stat().st_dev)).resolve().name
        Path("/sys/fs/ext4", device, "trigger_fs_error").write_text("1")

    def take_away(self) -> None:
        """The device is gone: what isn't in memory can't be read either."""
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(descriptor, _EXT4_IOC_SHUTDOWN, struct.pack("I", _WITHOUT_THE_JOURNAL))
        finally:
            os.close(descriptor)

    def repair(self) -> None:
        """As an operator would, when nothing uses it any more."""
        self.unmount()
        checked = subprocess.run(("e2fsck", "-f", "-y", str(self.image)), capture_output=True, timeout=120)
        assert checked.returncode in {0, 1}, checked.stdout  # e2fsck(8): 1 says that errors were corrected.
        self.mount()

    def mount(self) -> None:
        options = "loop,errors=remount-ro"  # As Debian mounts its root.
        subprocess.run(("mount", "-o", options, str(self.image), str(self.path)), check=True, timeout=60)

    def unmount(self) -> None:
        # A sandbox's own mounts on it go a moment after its last process.
        eventually("it is unmounted", lambda: subprocess.run(("umount", str(self.path)), timeout=60).returncode == 0)
        # A process that began meanwhile in a mount namespace of its own has this mount in it until it has moved on: the
        # file system lives on with all that it went through, and a new mount would be of the same one.
        eventually("nobody holds its device", lambda: not self._loop_devices())

    def _loop_devices(self) -> bytes:
        return subprocess.run(("losetup", "-j", str(self.image)), capture_output=True, check=True, timeout=60).stdout

    def _free_bytes(self) -> int:
        status = os.statvfs(self.path)
        return status.f_bavail * status.f_frsize

    @property
    def _ballast(self) -> Path:
        return self.path / "ballast"


def _number(device: int) -> str:
    return f"{os.major(device)}:{os.minor(device)}"


class _NoRoom(Exception):
    pass


def _take(descriptor: int, offset: int, size: int) -> None:
    try:
        os.posix_fallocate(descriptor, offset, size)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise _NoRoom from error


@contextlib.contextmanager
def small_disk(directory: Path, *, size_mib: int) -> Iterator[SmallDisk]:
    """A disk, mounted while the block runs."""
    image, path = directory / "disk.img", directory / "disk"
    with image.open("wb") as file:
        file.truncate(size_mib * _MIB)
    # Without blocks that are kept for root: ShellWeGo is root, and would find room where others find none.
    subprocess.run(("mkfs.ext4", "-q", "-m", "0", str(image)), check=True, timeout=60)
    path.mkdir()
    disk = SmallDisk(path, image)
    disk.mount()
    try:
        yield disk
    finally:
        disk.unmount()
        image.unlink()
