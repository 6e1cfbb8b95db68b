"""How does a network behave that has no kernel under it?

It keeps the promises of `port.NetworkDriver` in memory. What a kernel and its tenants would do comes from the
test: `listen` makes a port of an instance answer, `lose_way_out` is slirp4netns being killed.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Collection
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from shellwego.core.ids import InstanceId
from shellwego.drivers.network.pool import DEFAULT_SUBNET, InstanceAddresses
from shellwego.drivers.network.port import Attachment


class FakeNetwork:
    """A `NetworkDriver` for tests and simulations. Attachments survive like a kernel's: hand the object on."""

    def __init__(self, *, prefix: str = "swg-fake0000", subnet: IPv4Network = DEFAULT_SUBNET) -> None:
        self._prefix = prefix
        self._subnet = subnet
        self._attached: dict[InstanceId, IPv4Address] = {}
        self._listeners: dict[tuple[IPv4Address, int], tuple[str, int]] = {}
        self.has_way_out = False

    def listen(self, address: IPv4Address, port: int, target: tuple[str, int]) -> None:
        """From now on dialling that address and port reaches the TCP server at `target` (host, port)."""
        self._listeners[address, port] = target

    def close(self, address: IPv4Address, port: int) -> None:
        """The instance stopped listening: dialling is refused."""
        self._listeners.pop((address, port), None)

    def lose_way_out(self) -> None:
        """What `kill -9` of the way out does; the next `ensure_node` repairs it."""
        self.has_way_out = False

    async def ensure_node(self) -> None:
        self.has_way_out = True

    async def ensure_node_absent(self) -> None:
        self.has_way_out = False
        self._attached.clear()

    async def ensure_attached(self, id: InstanceId, address: IPv4Address) -> Attachment:
        if address not in self.addresses:
            raise ValueError(f"{address} is not an address for instances of {self._subnet}")
        self._attached[id] = address
        return Attachment(id, address, Path(f"/run/netns/{self._prefix}-{id.removeprefix('ins_')}"))

    async def ensure_detached(self, id: InstanceId) -> None:
        self._attached.pop(id, None)

    async def observe(self) -> Collection[InstanceId]:
        return tuple(self._attached)

    async def dial(self, address: IPv4Address, port: int, *, timeout_seconds: float) -> socket.socket:
        if address not in self._attached.values():
            raise OSError(errno.EHOSTUNREACH, os.strerror(errno.EHOSTUNREACH))
        target = self._listeners.get((address, port))
        if target is None:
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            async with asyncio.timeout(timeout_seconds):
                await asyncio.get_running_loop().sock_connect(connection, target)
        except BaseException:
            connection.close()
            raise
        return connection

    @property
    def namespace(self) -> Path:
        return Path("/run/netns") / self._prefix

    @property
    def nameservers(self) -> tuple[IPv4Address, ...]:
        return (IPv4Address("10.0.2.3"),)

    @property
    def addresses(self) -> Collection[IPv4Address]:
        return InstanceAddresses(self._subnet)
