"""How does state on disk survive a power cut?

Old bytes or new bytes, never half: every small state file of every process is written by `replace_file`.
"""

from __future__ import annotations

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
