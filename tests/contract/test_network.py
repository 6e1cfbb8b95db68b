"""Whoever is an instance's neighbour, it is never within reach. How all comes back is in `test_network_repair.py`."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from pyroute2 import IPRoute
from tests.contract.network_probes import Inside, arp_request, ethernet, udp
from tests.contract.network_world import (
    FIRST,
    GATEWAY,
    SECOND,
    a_prefix,
    an_instance,
    bridge,
    on_a_node,
    read_word,
    traces_of,
)
from tests.engines import engine

from shellwego.drivers.network import dump, links, namespaces
from shellwego.drivers.network.bridge import BridgeNetwork
from shellwego.drivers.network.fake import FakeNetwork
from shellwego.drivers.network.names import mac_of
from shellwego.drivers.network.port import NetworkDriver


@pytest.fixture(params=["fake", pytest.param("bridge", marks=pytest.mark.root)])
async def network(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[NetworkDriver]:
    prefix = a_prefix()
    driver: NetworkDriver = FakeNetwork(prefix=prefix) if request.param == "fake" else bridge(prefix, tmp_path)
    async with on_a_node(driver, prefix):
        yield driver


class TestEveryNetwork:
    async def test_an_attached_instance_is_seen_until_it_is_detached(self, network: NetworkDriver) -> None:
        one, two = an_instance(), an_instance()
        attachment = await network.ensure_attached(one, FIRST)
        await network.ensure_attached(two, SECOND)
        assert (attachment.id, attachment.address) == (one, FIRST)
        assert set(await network.observe()) == {one, two}
        await network.ensure_detached(one)
        assert set(await network.observe()) == {two}

    async def test_each_verb_may_be_repeated(self, network: NetworkDriver) -> None:
        id = an_instance()
        await network.ensure_node()
        assert await network.ensure_attached(id, FIRST) == await network.ensure_attached(id, FIRST)
        assert set(await network.observe()) == {id}
        await network.ensure_detached(id)
        await network.ensure_detached(id)
        assert set(await network.observe()) == set()

    async def test_an_address_is_free_again_after_its_instance(self, network: NetworkDriver) -> None:
        one, two = an_instance(), an_instance()
        await network.ensure_attached(one, FIRST)
        await network.ensure_detached(one)
        await network.ensure_attached(two, FIRST)
        assert set(await network.observe()) == {two}

    async def test_addresses_are_many_and_leave_out_what_the_node_needs(self, network: NetworkDriver) -> None:
        addresses = network.addresses
        assert len(addresses) > 60_000
        assert next(iter(addresses)) == FIRST
        assert GATEWAY not in addresses
        assert IPv4Address("192.0.2.1") not in addresses

    async def test_an_address_of_somebody_else_is_refused(self, network: NetworkDriver) -> None:
        with pytest.raises(ValueError, match="not an address"):
            await network.ensure_attached(an_instance(), GATEWAY)

    async def test_dialling_nobody_fails_within_its_time(self, network: NetworkDriver) -> None:
        with pytest.raises((OSError, TimeoutError)):
            await network.dial(SECOND, 8080, timeout_seconds=0.3)

    async def test_a_port_that_nobody_listens_on_is_refused_at_once(self, network: NetworkDriver) -> None:
        await network.ensure_attached(an_instance(), FIRST)
        with pytest.raises(ConnectionRefusedError):
            await network.dial(FIRST, 8080, timeout_seconds=20)

    async def test_nothing_is_left_of_a_node_that_goes(self, network: NetworkDriver) -> None:
        await network.ensure_attached(an_instance(), FIRST)
        await network.ensure_node_absent()
        await network.ensure_node_absent()
        assert set(await network.observe()) == set()
        assert traces_of(network.namespace.name) == []


async def test_the_fake_reaches_the_server_that_a_test_puts_behind_an_address() -> None:
    network = FakeNetwork()
    await network.ensure_attached(an_instance(), FIRST)
    with socket.create_server(("127.0.0.1", 0)) as server:
        network.listen(FIRST, 8080, server.getsockname())
        with await network.dial(FIRST, 8080, timeout_seconds=5):
            connection, _ = server.accept()
            connection.close()
        network.close(FIRST, 8080)
        with pytest.raises(ConnectionRefusedError):
            await network.dial(FIRST, 8080, timeout_seconds=5)


@pytest.mark.root
async def test_a_data_plane_made_anew_is_dialled_anew(data_plane: BridgeNetwork) -> None:
    """Else every health check fails after somebody took the namespace away, although we made it again."""
    one = an_instance()
    for _ in range(2):
        await data_plane.ensure_node()
        await data_plane.ensure_attached(one, FIRST)
        with pytest.raises(ConnectionRefusedError):
            await data_plane.dial(FIRST, 8080, timeout_seconds=5)
        subprocess.run(["ip", "netns", "delete", data_plane.namespace.name], check=True)
    await data_plane.ensure_node()


@pytest.mark.root
async def test_interfaces_are_listed_as_a_library_lists_them(data_plane: BridgeNetwork) -> None:
    """The filter is made from this list: a port that it misses would be cut off, or never let go."""
    for address in (FIRST, SECOND):
        await data_plane.ensure_attached(an_instance(), address)

    def both() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        with namespaces.entered(data_plane.namespace), IPRoute() as netlink:
            theirs = [(k.get_attr("IFLA_IFNAME"), k.get_attr("IFLA_IFALIAS") or "") for k in netlink.get_links()]
            return dump.links(), theirs

    ours, theirs = await asyncio.to_thread(both)
    assert ours == theirs
    assert len(ours) == 5  # The loopback, the bridge, the way out and two ports.


@pytest.mark.root
class TestIsolation:
    async def test_the_node_reaches_an_instance_and_its_neighbours_do_not(
        self, data_plane: BridgeNetwork, inside: Callable[[Path], Inside]
    ) -> None:
        one = inside((await data_plane.ensure_attached(an_instance(), FIRST)).namespace)
        two = inside((await data_plane.ensure_attached(an_instance(), SECOND)).namespace)
        two.listen(8080, "two")
        assert await read_word(data_plane, SECOND, 8080) == "two"
        assert one.connect(str(SECOND), 8080).startswith("failed")
        # By way of the gateway, as if the neighbour were far away.
        one.command("ip", "route", "replace", f"{SECOND}/32", "via", str(GATEWAY))
        assert one.connect(str(SECOND), 8080).startswith("failed")
        # Straight to the neighbour's MAC address.
        one.command("ip", "route", "replace", f"{SECOND}/32", "dev", "eth0")
        one.command("ip", "neigh", "replace", str(SECOND), "lladdr", mac_of(SECOND), "dev", "eth0", "nud", "permanent")
        assert one.connect(str(SECOND), 8080).startswith("failed")

    async def test_ipv6_leads_nowhere(self, data_plane: BridgeNetwork, inside: Callable[[Path], Inside]) -> None:
        one = inside((await data_plane.ensure_attached(an_instance(), FIRST)).namespace)
        two = inside((await data_plane.ensure_attached(an_instance(), SECOND)).namespace)
        for number, each in ((1, one), (2, two)):
            each.sysctl("net/ipv6/conf/lo/disable_ipv6", "0")
            each.sysctl("net/ipv6/conf/eth0/disable_ipv6", "0")
            each.command("ip", "addr", "add", f"fd99::{number}/64", "dev", "eth0", "nodad")
        two.listen(8080, "two", version=6)
        assert two.connect("fd99::2", 8080) == "reached two"
        one.command("ip", "neigh", "replace", "fd99::2", "lladdr", mac_of(SECOND), "dev", "eth0", "nud", "permanent")
        assert one.connect("fd99::2", 8080).startswith("failed")
        assert await read_word(data_plane, SECOND, 8080) == "two"

    async def test_no_frame_of_a_neighbour_arrives(
        self, data_plane: BridgeNetwork, inside: Callable[[Path], Inside]
    ) -> None:
        """ARP, broadcast, and what is sent straight to the neighbour: its tenant could watch or mislead."""
        one = inside((await data_plane.ensure_attached(an_instance(), FIRST)).namespace)
        two = inside((await data_plane.ensure_attached(an_instance(), SECOND)).namespace)
        seen = two.sniff(bytes.fromhex("1f90"))  # Port 8080, in the packet of the node's dial below.
        mine = mac_of(FIRST)
        one.send(
            arp_request(mine, FIRST.packed, SECOND.packed),
            ethernet(mac_of(SECOND), mine, 0x0800, udp(FIRST.packed, SECOND.packed, b"straight")),
            ethernet("ff:ff:ff:ff:ff:ff", mine, 0x0800, udp(FIRST.packed, b"\xff\xff\xff\xff", b"broadcast")),
            ethernet("33:33:00:00:00:01", mine, 0x86DD, b"\x60" + bytes(39)),
            ethernet(mac_of(SECOND), mine, 0x88B5, b"another protocol"),
        )
        with pytest.raises(ConnectionRefusedError):
            await data_plane.dial(SECOND, 8080, timeout_seconds=10)
        frames = [bytes.fromhex(line) for line in seen.communicate(timeout=30)[0].split()]
        assert [frame for frame in frames if bytes.fromhex(mine.replace(":", "")) in frame] == []
        assert frames[-1][6:12] == bytes.fromhex(mac_of(GATEWAY).replace(":", ""))

    async def test_a_borrowed_address_gets_no_packet_out(
        self, data_plane: BridgeNetwork, inside: Callable[[Path], Inside]
    ) -> None:
        """Whoever sends in a neighbour's name could take over its connections and spend its limits."""
        one = inside((await data_plane.ensure_attached(an_instance(), FIRST)).namespace)
        await data_plane.ensure_attached(an_instance(), SECOND)
        plane = inside(data_plane.namespace)
        seen = plane.sniff(b"the last one", interface="tap0")
        far = IPv4Address("198.51.100.7").packed
        gateway, mine = mac_of(GATEWAY), mac_of(FIRST)
        one.send(
            ethernet(gateway, mine, 0x0800, udp(SECOND.packed, far, b"borrowed address")),
            ethernet(gateway, mac_of(SECOND), 0x0800, udp(FIRST.packed, far, b"borrowed mac")),
            ethernet(gateway, mac_of(SECOND), 0x0800, udp(SECOND.packed, far, b"borrowed both")),
            ethernet(gateway, mine, 0x0800, udp(IPv4Address("203.0.113.9").packed, far, b"invented")),
            ethernet(gateway, mine, 0x0800, udp(FIRST.packed, far, b"the last one")),
        )
        frames = [bytes.fromhex(line) for line in seen.communicate(timeout=30)[0].split()]
        assert [b"the last one" in frame for frame in frames if b"\x00\x09" in frame] == [True]
        assert not any(word in frame for frame in frames for word in (b"borrowed", b"invented"))

    async def test_the_node_and_its_host_are_out_of_reach(
        self, data_plane: BridgeNetwork, inside: Callable[[Path], Inside], host_server: tuple[str, int]
    ) -> None:
        one = inside((await data_plane.ensure_attached(an_instance(), FIRST)).namespace)
        plane = inside(data_plane.namespace)
        address, port = host_server
        plane.listen(port, "plane")
        assert Inside(Path("/proc/self/ns/net")).connect(address, port) == "reached host"
        for target in (str(GATEWAY), "10.0.2.100", "10.0.2.2", "169.254.169.254", address, "127.0.0.1", "0.0.0.0"):
            assert one.connect(target, port).startswith("failed"), target
        one.command("ip", "route", "replace", "127.0.0.0/8", "via", str(GATEWAY), "table", "local")
        assert one.connect("127.0.0.1", port).startswith("failed")

    async def test_a_new_address_of_the_host_is_closed_as_well(
        self, data_plane: BridgeNetwork, inside: Callable[[Path], Inside], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one = inside((await data_plane.ensure_attached(an_instance(), FIRST)).namespace)
        new = IPv4Network("198.51.100.9/32")
        known = await asyncio.to_thread(links.host_networks)
        monkeypatch.setattr(links, "host_networks", lambda: known | {new})
        await data_plane.ensure_node()
        answer = one.connect("198.51.100.9", 80)
        assert answer.startswith("failed")
        # Refused by the filter, in other words not merely unanswered.
        assert "timed out" not in answer

    async def test_outside_is_within_reach_and_names_resolve(
        self, data_plane: BridgeNetwork, inside: Callable[[Path], Inside], allowed_server: tuple[str, int]
    ) -> None:
        one = inside((await data_plane.ensure_attached(an_instance(), FIRST)).namespace)
        assert one.connect(*allowed_server) == "reached host"
        assert one.resolve() == "4711"
        assert data_plane.nameservers == (IPv4Address("10.0.2.3"),)

    async def test_one_tenant_cannot_use_up_the_connections_of_all(
        self, data_plane: BridgeNetwork, inside: Callable[[Path], Inside], allowed_server: tuple[str, int]
    ) -> None:
        one = inside((await data_plane.ensure_attached(an_instance(), FIRST)).namespace)
        two = inside((await data_plane.ensure_attached(an_instance(), SECOND)).namespace)
        one.listen(8080, "one")
        assert one.hold(*allowed_server, 25) == (20, 5)
        assert two.connect(*allowed_server) == "reached host"
        assert await read_word(data_plane, FIRST, 8080) == "one"

    async def test_two_clouds_with_the_same_addresses_do_not_meet(
        self, data_plane: BridgeNetwork, inside: Callable[[Path], Inside], tmp_path: Path
    ) -> None:
        other = bridge(a_prefix(), tmp_path / "other")
        await other.ensure_node()
        try:
            ours = inside((await data_plane.ensure_attached(an_instance(), FIRST)).namespace)
            theirs = inside((await other.ensure_attached(an_instance(), FIRST)).namespace)
            ours.listen(8080, "ours")
            theirs.listen(8080, "theirs")
            assert await read_word(data_plane, FIRST, 8080) == "ours"
            assert await read_word(other, FIRST, 8080) == "theirs"
            theirs.close()
        finally:
            await other.ensure_node_absent()
        assert await read_word(data_plane, FIRST, 8080) == "ours"


@pytest.mark.root
async def test_the_hosts_own_network_is_as_before(tmp_path: Path) -> None:
    """The operator's firewall, addresses, routes and forwarding are the operator's."""
    here = Inside(Path("/proc/self/ns/net"))

    def host() -> tuple[str, ...]:
        return (
            here.command(str(engine("nft")), "list", "ruleset"),
            here.command("ip", "-o", "addr"),
            here.command("ip", "route", "show", "table", "all"),
            here.command("ip", "rule"),
            Path("/proc/sys/net/ipv4/ip_forward").read_text(),
            Path("/proc/sys/net/bridge/bridge-nf-call-iptables").read_text(),
            Path("/etc/resolv.conf").read_text(),
        )

    before = host()
    network = bridge(a_prefix(), tmp_path)
    try:
        await network.ensure_node()
        await network.ensure_attached(an_instance(), FIRST)
        assert host() == before
    finally:
        await network.ensure_node_absent()
    assert host() == before
