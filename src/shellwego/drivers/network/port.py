"""What must a node's network do for its instances?

Each cloud has one data plane on a node: a network namespace of its own that holds the bridge, the filter rules and
the way out. Nothing of the host's own network is changed. Each instance has a namespace with one interface and one
address, plugged into that bridge. Sockets of the edge are opened in the host's namespace and served from inside the
data plane, so tenants' addresses are reachable from nowhere else.
"""

from __future__ import annotations

import socket
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Protocol

from shellwego.core.ids import InstanceId


@dataclass(frozen=True, slots=True)
class Attachment:
    """An instance's place in the network. `namespace` is a path as ip-netns(8) makes them."""

    id: InstanceId
    address: IPv4Address
    namespace: Path


class NetworkDriver(Protocol):
    async def ensure_node(self) -> None:
        """The data plane exists, filters and has its way out. Repairs whatever is missing; cheap when nothing is."""
        ...

    async def ensure_node_absent(self) -> None:
        """Nothing of the data plane, nor of any instance's namespace, is left."""
        ...

    async def ensure_attached(self, id: InstanceId, address: IPv4Address) -> Attachment:
        """
        The instance's namespace is ready for a sandbox to start in: interface, address, default route. A namespace
        whose addresses a runtime has taken away (gVisor does at every start) is made ready again. Call it before
        each start, never under a running sandbox.
        """
        ...

    async def ensure_detached(self, id: InstanceId) -> None:
        """Nothing of the instance's namespace and interface is left."""
        ...

    async def observe(self) -> Collection[InstanceId]:
        """Whose namespaces exist."""
        ...

    async def dial(self, address: IPv4Address, port: int, *, timeout_seconds: float) -> socket.socket:
        """A connected, non-blocking TCP socket from inside the data plane. Raises OSError or TimeoutError."""
        ...

    @property
    def namespace(self) -> Path:
        """The data plane's own namespace, for the edge's proxy."""
        ...

    @property
    def nameservers(self) -> tuple[IPv4Address, ...]:
        """What instances find in their resolv.conf."""
        ...

    @property
    def addresses(self) -> Collection[IPv4Address]:
        """Every address an instance may be given, in order."""
        ...
