"""How does state on disk survive a power cut?

Old bytes or new bytes, never half: every small state file of every process is written by `replace_file`. What the disk
makes of them later is found by the check that `sealed` puts before them.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from pathlib import Path


def replace_file(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """
    Swap in new content so that a crash leaves the old file or the new one, never half.

    Writes beside, fsyncs, renames, fsyncs the directory (rename(2) alone may be reordered before the data).
    `mode` holds from the first byte on. Raises OSError, after which the old file is still there and no
    leftover of ours is.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)  # The umask must not decide who reads a secret.
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable (fsync(2): a file's fsync does not cover its name)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def take_lock(path: Path) -> int:
    """
    The lock of this file, which is made if need be, until the descriptor is closed or we end. Raises BlockingIOError
    while another process has it. It can be taken on a disk that has become read-only, where what runs must be stopped.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def sealed(body: bytes) -> bytes:
    """The content with a check before it, for `unsealed`."""
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def unsealed(content: bytes) -> bytes:
    """What was sealed. Raises ValueError when a bit of it is another now."""
    check, _, body = content.partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != check:
        raise ValueError("its content doesn't match its checksum")
    return body
