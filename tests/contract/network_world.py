"""What do tests of networks stand on? Names that nobody else uses, a data plane for a while, services of the host's."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from collections.abc import AsyncIterator, Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from tests.contract.network_probes import Inside
from tests.engines import engine

from shellwego.core.ids import InstanceId, new_id
from shellwego.core.networks import AllowedNetwork
from shellwego.drivers.network import links, uplink
from shellwego.drivers.network.bridge import BridgeNetwork
from shellwego.drivers.network.port import NetworkDriver

FIRST, SECOND = IPv4Address("100.96.0.2"), IPv4Address("100.96.0.3")
GATEWAY = IPv4Address("100.96.0.1")


def an_instance() -> InstanceId:
    return InstanceId(new_id("instance", secrets.token_bytes))


def a_prefix() -> str:
    return f"swg-{new_id('cloud', secrets.token_bytes)[4:12]}"


def bridge(
    prefix: str, directory: Path, *, allowed: tuple[AllowedNetwork, ...] = (), connections: int = 1000
) -> BridgeNetwork:
    return BridgeNetwork(
        prefix=prefix,
        runtime_directory=directory,
        slirp4netns=engine("slirp4netns"),
        nft=engine("nft"),
        allowed=allowed,
        connections_per_instance=connections,
    )


def traces_of(prefix: str) -> list[str]:
    names = [path.name for path in Path("/run/netns").glob(f"{prefix}*")]
    return names + [f"slirp4netns {pid}" for pid in uplink.find_processes(Path("/run/netns", prefix))]


@contextlib.contextmanager
def serve_on_host() -> Iterator[tuple[str, int]]:
    """A service of the host's on all of its addresses, which says `host`."""
    here = Inside(Path("/proc/self/ns/net"))
    with socket.create_server(("0.0.0.0", 0)) as free:
        port = free.getsockname()[1]
    here.listen(port, "host")
    address = next(n.network_address for n in sorted(links.host_networks()) if not n.is_loopback and n.prefixlen == 32)
    try:
        yield str(address), port
    finally:
        here.close()


@contextlib.asynccontextmanager
async def on_a_node(driver: NetworkDriver, prefix: str) -> AsyncIterator[None]:
    """The node's part of it is there meanwhile, and leaves no trace."""
    await driver.ensure_node()
    try:
        yield
    finally:
        await driver.ensure_node_absent()
        assert traces_of(prefix) == []


@contextlib.asynccontextmanager
async def a_data_plane(directory: Path, allowed: tuple[str, int]) -> AsyncIterator[BridgeNetwork]:
    """One that stands for the internet by one service of the host's that is expressly allowed."""
    address, port = allowed
    prefix = a_prefix()
    driver = bridge(prefix, directory, allowed=(AllowedNetwork(IPv4Network(address), (port,)),), connections=20)
    async with on_a_node(driver, prefix):
        yield driver


async def read_word(network: BridgeNetwork, address: IPv4Address, port: int) -> str:
    with await network.dial(address, port, timeout_seconds=10) as connection:
        async with asyncio.timeout(10):
            return (await asyncio.get_running_loop().sock_recv(connection, 64)).decode()
