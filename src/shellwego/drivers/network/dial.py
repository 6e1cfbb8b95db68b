"""How is an instance's port reached from a process that lives in another namespace?

A socket belongs to the namespace it was made in, for ever. So sockets are made inside the data plane, by the worker
thread, and connected outside, by the event loop. The way in and back costs more than all else of a health check, so a
visit makes several.
"""

from __future__ import annotations

import asyncio
import os
import socket
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
        # One that was made anew under the same name: the old one's sockets lead nowhere.
        inode = self._namespace.stat().st_ino
        if inode != self._of:
            self.drop()
            self._of = inode
        if not self._spare:
            made = await self._thread.run(self._namespace, _open_sockets)
            self._spare += made
        return socket.socket(fileno=self._spare.pop())

    def drop(self) -> None:
        """Close the spare ones: an open socket keeps its namespace alive."""
        while self._spare:
            os.close(self._spare.pop())


def _open_sockets() -> list[int]:
    kind = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    return [socket.socket(socket.AF_INET, kind).detach() for _ in range(_A_VISIT)]


async def connect(unconnected: socket.socket, address: IPv4Address, port: int, *, timeout_seconds: float) -> None:
    """Connect, or close the socket and raise OSError or TimeoutError."""
    try:
        async with asyncio.timeout(timeout_seconds):
            await asyncio.get_running_loop().sock_connect(unconnected, (str(address), port))
    except BaseException:
        unconnected.close()
        raise
