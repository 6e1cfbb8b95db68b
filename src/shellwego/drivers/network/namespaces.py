"""How does work get done inside another network namespace without the process moving there?

setns(2) moves one thread. One worker thread per driver enters a namespace for the length of one call and comes back;
the thread that runs the event loop never moves. Namespaces are named as ip-netns(8) names them: a file in /run/netns
with the namespace mounted over it, so `ip netns exec` works for an operator who looks for a fault.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from shellwego.drivers.network.names import NAMESPACES

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_MS_BIND, _MS_REC, _MS_SHARED = 0x1000, 0x4000, 0x100000
_MNT_DETACH = 2
_OWN = Path("/proc/thread-self/ns/net")

# Python 3.12 has os.setns and os.unshare; mount(2) and umount2(2) it never has.
_libc = ctypes.CDLL(None, use_errno=True)


class NamespaceThread:
    """A thread of its own in which calls run one after the other, each inside the namespace it names."""

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    async def run(self, namespace: Path | None, work: Callable[[], T]) -> T:
        """Run `work` inside `namespace` (None: where the process itself lives)."""

        def inside() -> T:
            if namespace is None:
                return work()
            with entered(namespace):
                return work()

        return await asyncio.get_running_loop().run_in_executor(self._executor, inside)


@contextlib.contextmanager
def entered(namespace: Path) -> Iterator[None]:
    """The calling thread is inside `namespace` for the length of the block. Never use it on the main thread."""
    home = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        target = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _check(_libc.setns(target, _CLONE_NEWNET), "setns", namespace)
        finally:
            os.close(target)
        try:
            yield
        finally:
            _check(_libc.setns(home, _CLONE_NEWNET), "setns", _OWN)
    finally:
        os.close(home)


def is_namespace(path: Path) -> bool:
    """Whether a namespace is mounted there. Killed between two steps, a maker leaves an ordinary empty file."""
    try:
        return path.stat().st_dev == _OWN.stat().st_dev
    except OSError:
        return False


def ensure_namespace(path: Path) -> bool:
    """The namespace exists; whether it is new. For a worker thread: it visits the namespace that it makes."""
    if is_namespace(path):
        return False
    _ensure_shared_directory()
    path.touch(mode=0o444)
    home = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.unshare(_CLONE_NEWNET), "unshare", path)
        try:
            _mount(bytes(_OWN), path, _MS_BIND)
        finally:
            _check(_libc.setns(home, _CLONE_NEWNET), "setns", _OWN)
    finally:
        os.close(home)
    return True


def ensure_namespace_absent(path: Path) -> None:
    """The name is gone; the namespace too, as soon as no process is left in it."""
    # A loop, because a maker that lost a race may have left a second mount over the first.
    while is_namespace(path):
        if _libc.umount2(bytes(path), _MNT_DETACH) != 0 and ctypes.get_errno() != errno.EINVAL:
            _check(-1, "umount", path)
    path.unlink(missing_ok=True)


def named_namespaces() -> list[str]:
    """Every name in /run/netns, whoever made it."""
    try:
        return sorted(entry.name for entry in NAMESPACES.iterdir())
    except FileNotFoundError:
        return []


def forget_empty_directory() -> None:
    """Take /run/netns away again when nothing is left in it, as the host had it before the first namespace."""
    if named_namespaces():
        return
    # A plain umount refuses while anything is mounted below, and rmdir while there is any file: a namespace that
    # another program makes at this moment is safe.
    if _libc.umount2(bytes(NAMESPACES), 0) == 0 or ctypes.get_errno() in (errno.EINVAL, errno.ENOENT):
        with contextlib.suppress(OSError):
            NAMESPACES.rmdir()


def _ensure_shared_directory() -> None:
    """As ip-netns(8) does it: a shared mount, so that namespaces appear and vanish in every mount namespace alike."""
    NAMESPACES.mkdir(mode=0o755, parents=True, exist_ok=True)
    try:
        _mount(b"", NAMESPACES, _MS_SHARED | _MS_REC)
    except OSError as error:
        if error.errno != errno.EINVAL:  # EINVAL: it isn't a mount point yet.
            raise
        _mount(bytes(NAMESPACES), NAMESPACES, _MS_BIND | _MS_REC)
        _mount(b"", NAMESPACES, _MS_SHARED | _MS_REC)


def _mount(source: bytes, target: Path, flags: int) -> None:
    _check(_libc.mount(source, bytes(target), b"none", ctypes.c_ulong(flags), None), "mount", target)


def _check(result: int, call: str, path: Path) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{call}: {os.strerror(code)}", str(path))
