"""How is a node's network made from a bridge, namespaces, nftables and slirp4netns?

The kernel is the only memory: names follow from ids, a port's alias says whose it is and with which address, the
tables carry the fingerprint of the rules they hold. Each step may be the last one before a `kill -9`; the next call
looks at what is there and goes on.
"""

from __future__ import annotations

import asyncio
import functools
import os
import socket
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import TypeVar

from shellwego.core.errors import EngineMissing, Unavailable
from shellwego.core.ids import InstanceId
from shellwego.core.networks import AllowedNetwork
from shellwego.drivers.network import dial, links, names, namespaces, nftables, uplink
from shellwego.drivers.network.pool import DEFAULT_SUBNET, InstanceAddresses, gateway_of
from shellwego.drivers.network.port import Attachment
from shellwego.kit.commands import CommandFailed, Output, run_command
from shellwego.kit.faults import fault_point, reach

T = TypeVar("T")

NODE_NAMESPACE = fault_point("network.node.namespace")
NODE_FILTER = fault_point("network.node.filter")
NODE_BRIDGE = fault_point("network.node.bridge")
NODE_UPLINK = fault_point("network.node.uplink")
NODE_END_UPLINK = fault_point("network.node.end_uplink")
NODE_REMOVE = fault_point("network.node.remove")
ATTACH_NAMESPACE = fault_point("network.attach.namespace")
ATTACH_CABLE = fault_point("network.attach.cable")
ATTACH_ADMIT = fault_point("network.attach.admit")
ATTACH_ADDRESS = fault_point("network.attach.address")
DETACH_REFUSE = fault_point("network.detach.refuse")
DETACH_UNPLUG = fault_point("network.detach.unplug")
DETACH_REMOVE = fault_point("network.detach.remove")


class BridgeNetwork:
    """The `NetworkDriver` of a Linux node. `prefix` names everything it makes: `swg-<cloud8>`."""

    def __init__(
        self,
        *,
        prefix: str,
        runtime_directory: Path,
        slirp4netns: Path,
        nft: Path,
        subnet: IPv4Network = DEFAULT_SUBNET,
        allowed: Collection[AllowedNetwork] = (),
        connections_per_instance: int = 1000,
    ) -> None:
        self._prefix = prefix
        self._runtime_directory = runtime_directory
        self._slirp4netns = slirp4netns
        self._nft = nft
        self._subnet = subnet
        self._filter = nftables.Filter(subnet, connections_per_instance, tuple(allowed))
        self._netlink = namespaces.NamespaceThread(f"{prefix}-netlink")
        # Health checks dial all the time; they don't queue behind a change of the network.
        self._sockets = dial.Sockets(self.namespace, namespaces.NamespaceThread(f"{prefix}-dial"))
        self._changing = asyncio.Lock()

    @property
    def namespace(self) -> Path:
        return names.NAMESPACES / self._prefix

    @property
    def nameservers(self) -> tuple[IPv4Address, ...]:
        return (nftables.RESOLVER,)

    @property
    def gateway(self) -> IPv4Address:
        return gateway_of(self._subnet)

    @property
    def addresses(self) -> Sequence[IPv4Address]:
        return InstanceAddresses(self._subnet)

    async def ensure_node(self) -> None:
        async with self._changed("make the data plane"):
            await reach(NODE_NAMESPACE)
            await self._outside(namespaces.ensure_namespace, self.namespace)
            await reach(NODE_FILTER)
            await self._ensure_filter()
            await reach(NODE_BRIDGE)
            await self._inside(_prepare_node, self._subnet)
            if not await self._inside(links.has_way_out):
                await reach(NODE_UPLINK)
                # One that lost its interface, or serves a data plane that is gone, would hold the name.
                await asyncio.to_thread(uplink.end, self.namespace)
                self._runtime_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                await asyncio.to_thread(uplink.start, self._slirp4netns, self.namespace, self._runtime_directory)

    async def ensure_node_absent(self) -> None:
        async with self._changed("remove the data plane"):
            await reach(NODE_END_UPLINK)
            await asyncio.to_thread(uplink.end, self.namespace)
            uplink.remove_log(self._runtime_directory)
            for id in self._namespaces_of_instances():
                await self._detach(id)
            await reach(NODE_REMOVE)
            await self._outside(namespaces.ensure_namespace_absent, self.namespace)
            self._sockets.drop()
            await self._outside(namespaces.forget_empty_directory)

    async def ensure_attached(self, id: InstanceId, address: IPv4Address) -> Attachment:
        if address not in self.addresses:
            raise ValueError(f"{address} is not an address for instances of {self._subnet}")
        own = names.instance_namespace(self._prefix, id)
        async with self._changed(f"attach {id}"):
            before = await self._inside(links.find_plugged, id)
            if before not in (None, address):
                await self._detach(id)
            await reach(ATTACH_NAMESPACE)
            await self._outside(namespaces.ensure_namespace, own)
            await self._netlink.run(own, functools.partial(links.write_sysctls, links.INSTANCE_SYSCTLS))
            # Half a cable leads into a namespace that is gone, or into an earlier data plane.
            if not await self._netlink.run(own, links.has_inside):
                await self._inside(links.unplug, id, None)
            elif not await self._inside(links.has_port, id):
                await self._netlink.run(own, links.unplug_inside)
            await reach(ATTACH_CABLE)
            await self._inside(_cable, id, address, own)
            await reach(ATTACH_ADMIT)
            await self._nft_load(nftables.admit(nftables.Port(names.port_name(id), address)))
            await reach(ATTACH_ADDRESS)
            await self._netlink.run(own, functools.partial(links.ensure_inside, address, self._subnet))
        return Attachment(id, address, own)

    async def ensure_detached(self, id: InstanceId) -> None:
        async with self._changed(f"detach {id}"):
            await self._detach(id)

    async def observe(self) -> Collection[InstanceId]:
        return self._namespaces_of_instances()

    async def dial(self, address: IPv4Address, port: int, *, timeout_seconds: float) -> socket.socket:
        unconnected = await self._sockets.take()
        await dial.connect(unconnected, address, port, timeout_seconds=timeout_seconds)
        return unconnected

    async def _detach(self, id: InstanceId) -> None:
        if namespaces.is_namespace(self.namespace):
            address = await self._inside(links.find_plugged, id)
            if address is not None:
                await reach(DETACH_REFUSE)
                await self._nft_load(nftables.refuse(nftables.Port(names.port_name(id), address)), missing_is_well=True)
            await reach(DETACH_UNPLUG)
            await self._inside(links.unplug, id, address)
        await reach(DETACH_REMOVE)
        await self._outside(namespaces.ensure_namespace_absent, names.instance_namespace(self._prefix, id))

    async def _ensure_filter(self) -> None:
        host = nftables.merged(await self._outside(links.host_networks))
        ports = frozenset(map(links.as_filter_port, await self._inside(links.plugged_ports)))
        loaded = nftables.parse_loaded((await self._run_nft("-j", "list", "ruleset")).stdout)
        if not loaded.holds(self._filter):
            await self._nft_load(nftables.whole(self._filter, host, ports))
        elif (loaded.host, loaded.ports) != (host, ports):
            await self._nft_load(nftables.sets(host, ports))

    async def _nft_load(self, text: str, *, missing_is_well: bool = False) -> None:
        try:
            await self._run_nft("-f", "-", stdin=text.encode())
        except CommandFailed as error:
            # The whole table is gone: there is nothing to take out of it, and ensure_node makes it anew.
            if not (missing_is_well and "No such file or directory" in error.stderr):
                raise

    async def _run_nft(self, *arguments: str, stdin: bytes | None = None) -> Output:
        return await run_command(nftables.run_nft(self._nft, self.namespace, *arguments), stdin=stdin)

    async def _inside(self, work: Callable[..., T], *arguments: object) -> T:
        return await self._netlink.run(self.namespace, functools.partial(work, *arguments))

    async def _outside(self, work: Callable[..., T], *arguments: object) -> T:
        return await self._netlink.run(None, functools.partial(work, *arguments))

    def _namespaces_of_instances(self) -> tuple[InstanceId, ...]:
        found = (names.instance_of(self._prefix, name) for name in namespaces.named_namespaces())
        return tuple(id for id in found if id is not None)

    @asynccontextmanager
    async def _changed(self, doing: str) -> AsyncIterator[None]:
        """One change at a time; what the kernel or a program refuses is told once, in our own words."""
        async with self._changing:
            try:
                yield
            except CommandFailed as error:
                if error.returncode == 127:
                    raise EngineMissing(self._nft.name, error.stderr) from error
                raise Unavailable("The node's network", f"could not {doing}: {error}") from error
            except OSError as error:
                raise Unavailable("The node's network", f"could not {doing}: {error}") from error


def _prepare_node(subnet: IPv4Network) -> None:
    links.write_sysctls(links.BRIDGE_SYSCTLS, optional=True)
    links.ensure_bridge(subnet)
    links.write_sysctls(links.NODE_SYSCTLS)


def _cable(id: InstanceId, address: IPv4Address, own: Path) -> None:
    descriptor = os.open(own, os.O_RDONLY | os.O_CLOEXEC)
    try:
        links.ensure_cable(id, address, descriptor)
    finally:
        os.close(descriptor)
