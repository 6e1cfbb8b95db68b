"""How is an instance's port reached from a process that lives in another namespace?

A socket belongs to the namespace it was made in, for ever. So the socket is made inside the data plane, by the
worker thread, and connected outside, by the event loop.
"""

from __future__ import annotations

import asyncio
import socket
from ipaddress import IPv4Address


def open_socket() -> socket.socket:
    """Call it inside the data plane."""
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)


async def connect(unconnected: socket.socket, address: IPv4Address, port: int, *, timeout_seconds: float) -> None:
    """Connect, or close the socket and raise OSError or TimeoutError."""
    try:
        async with asyncio.timeout(timeout_seconds):
            await asyncio.get_running_loop().sock_connect(unconnected, (str(address), port))
    except BaseException:
        unconnected.close()
        raise
