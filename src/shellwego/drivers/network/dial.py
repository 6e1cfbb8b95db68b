"""How is an instance's port reached from a process that lives in another namespace?

A socket belongs to the namespace it was made in, for ever. So sockets are made inside the data plane, by the worker
thread, and connected outside, by the event loop. The way in and back costs more than all else of a health check, so a
visit makes several.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterable
from ipaddress import IPv4Address
from pathlib import Path

from shellwego.drivers.network.namespaces import NamespaceThread

_A_VISIT = 32


class Sockets:
    """Unconnected sockets of one namespace, a few of them in advance."""

    def __init__(self, namespace: Path, thread: NamespaceThread) -> None:
        self._namespace, self._thread = namespace, thread
        self._of: int | None = None
        # Descriptors: an object that nobody closed would complain at the process's end.
        self._spare: list[int] = []

    async def take(self) -> socket.socket:
        """One that the caller closes. Raises OSError when there is no such namespace."""
        if self._namespace.stat().st_ino != self._of:
            self.drop()  # Made anew under the same name: the old one's sockets lead nowhere.
        if self._spare:
            return socket.socket(fileno=self._spare.pop())
        visited, (first, *others) = await self._thread.run(self._namespace, _open_sockets)
        if self._is(visited):
            if visited != self._of:
                self.drop()
            self._of = visited
            self._spare += others
        else:  # It went, or was made anew, during the visit.
            _close(others)
        return socket.socket(fileno=first)

    def drop(self) -> None:
        """Close the spare ones: an open socket keeps its namespace alive."""
        _close(self._spare)
        self._spare.clear()

    def _is(self, inode: int) -> bool:
        try:
            return self._namespace.stat().st_ino == inode
        except FileNotFoundError:
            return False


def _open_sockets() -> tuple[int, list[int]]:
    """Which namespace this is, and sockets of it."""
    kind = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    here = Path("/proc/thread-self/ns/net").stat().st_ino
    return here, [socket.socket(socket.AF_INET, kind).detach() for _ in range(_A_VISIT)]


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


async def connect(unconnected: socket.socket, address: IPv4Address, port: int, *, timeout_seconds: float) -> None:
    """Connect, or close the socket and raise OSError or TimeoutError."""
    try:
        async with asyncio.timeout(timeout_seconds):
            await asyncio.get_running_loop().sock_connect(unconnected, (str(address), port))
    except BaseException:
        unconnected.close()
        raise
