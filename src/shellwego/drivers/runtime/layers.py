"""Where does what a runc instance writes go, so that it can't fill the node's disk?

Into a small ext4 of its own, in a sparse file, mounted over a loop device. A file system of each size is formatted
once; an instance gets a copy, which is a few blocks, and a mount(2) of our own: mkfs(8) and mount(8) for each start
would take longer than the start of a small app.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path

from shellwego.drivers.runtime import mounts
from shellwego.kit.commands import Command, run_command

_LOOP_CTL_GET_FREE, _LOOP_CONFIGURE = 0x4C82, 0x4C0A  # linux/loop.h
_AUTOCLEAR = 4
_CONFIG = struct.Struct("=II 40x III I 176x 64x")
"""struct loop_config: descriptor, block size, and of its loop_info64 only the flags."""
_TRIES = 20


async def ensure_layer(folder: Path, file: Path, *, size_mib: int) -> None:
    """An empty file system of that size in `file`, below `folder`. Raises CommandFailed, OSError."""
    empty = folder / f"empty-{size_mib}m.ext4"
    if not empty.exists():
        new = file.with_suffix(".new")
        new.unlink(missing_ok=True)
        await run_command(format_layer(new, size_mib=size_mib))
        new.rename(empty)
    _copy_sparse(empty, file)


def format_layer(image: Path, *, size_mib: int) -> Command:
    """Put a file system into a sparse file. No journal: nobody wants the layer back after a power cut."""
    return (
        "mkfs.ext4",
        "-q",
        "-F",
        "-m",
        "0",
        "-O",
        "^has_journal,^resize_inode,sparse_super2",
        "-E",
        "lazy_itable_init=1,nodiscard",
        str(image),
        f"{size_mib}m",
    )


def mount_layer(file: Path, target: Path) -> None:
    """
    Mount it over a loop device, which the kernel frees again with the mount. The host gets back what is deleted.
    Raises OSError. It waits for the disk: for a thread.
    """
    image = os.open(file, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        device, name = _attach(image)
    finally:
        os.close(image)
    try:
        # noinit_itable: the kernel would write the zeros of every inode table, which a sparse file has for nothing.
        mounts.mount_device(name, target, "ext4", "discard,noinit_itable")
    finally:
        os.close(device)


def _attach(image: int) -> tuple[int, str]:
    """A loop device that shows the file for as long as it is open or mounted, and its name."""
    with Path("/dev/loop-control").open("rb") as control:
        for _ in range(_TRIES):
            name = f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}"
            device = os.open(name, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.ioctl(device, _LOOP_CONFIGURE, _CONFIG.pack(image, 0, 0, 0, 0, _AUTOCLEAR))
            except OSError as error:
                os.close(device)
                if error.errno != errno.EBUSY:  # Somebody was quicker.
                    raise
            else:
                return device, name
    raise OSError(errno.EBUSY, "every loop device was taken by others", "/dev/loop-control")


def _copy_sparse(source: Path, target: Path) -> None:
    """Only what isn't a hole."""
    with source.open("rb") as reading, target.open("wb") as writing:
        size = os.fstat(reading.fileno()).st_size
        os.ftruncate(writing.fileno(), size)
        offset = 0
        while offset < size:
            try:
                offset = os.lseek(reading.fileno(), offset, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:  # Nothing but a hole is left.
                    return
                raise
            end = os.lseek(reading.fileno(), offset, os.SEEK_HOLE)
            while offset < end:
                copied = os.copy_file_range(reading.fileno(), writing.fileno(), end - offset, offset, offset)
                if copied == 0:
                    raise OSError(errno.EIO, "became shorter while it was copied", str(source))
                offset += copied
