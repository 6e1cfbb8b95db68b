"""How do the server and the agent of a node share one store without hurting each other?

flock(2) on small files: the kernel drops a lock with its owner, so nothing is ever left locked by a crash. Waiting
is done by asking again, since a thread blocked in flock can't be cancelled; contention is rare and short.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator
from pathlib import Path

_FIRST_WAIT_SECONDS = 0.01
_LONGEST_WAIT_SECONDS = 0.25


def try_lock(path: Path, *, shared: bool = False) -> int | None:
    """
    A descriptor that holds the lock, or None while somebody else does.

    The lock is the file that has the name now: `unlock` removes the name, and who opened the old file meanwhile
    must not believe to hold anything.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def unlock(descriptor: int, path: Path | None = None) -> None:
    """Give the lock back and, when `path` is given, remove its file (exclusive locks only)."""
    if path is not None:
        path.unlink(missing_ok=True)
    os.close(descriptor)


@contextlib.asynccontextmanager
async def locked(path: Path, *, shared: bool = False, keep_file: bool = False) -> AsyncIterator[int]:
    """Hold the lock, waiting for it as long as it takes; the caller sets the limit. Yields its descriptor."""
    wait = _FIRST_WAIT_SECONDS
    while (descriptor := try_lock(path, shared=shared)) is None:
        await asyncio.sleep(wait)
        wait = min(_LONGEST_WAIT_SECONDS, wait * 2)
    try:
        yield descriptor
    finally:
        unlock(descriptor, None if shared or keep_file else path)
