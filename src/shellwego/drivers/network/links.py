"""How are bridge, cables and addresses made?

Each function talks netlink (pyroute2) from the namespace that its thread is in, brings one thing from whatever state
it is in to the one wanted, and closes its socket. Applied twice, each equals applied once.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from shellwego.core.errors import Conflict
from shellwego.core.ids import InstanceId
from shellwego.drivers.network import dump
from shellwego.drivers.network.names import BRIDGE, INSIDE, TAP, alias_of, mac_of, parse_alias, port_name
from shellwego.drivers.network.nftables import Port
from shellwego.drivers.network.pool import gateway_of

NODE_SYSCTLS = {
    # First the rules, then forwarding: it is switched on in this namespace only, after its filter is loaded.
    "net/ipv4/ip_forward": "1",
    "net/ipv4/conf/all/rp_filter": "1",
    "net/ipv4/conf/default/rp_filter": "1",
    "net/ipv4/conf/all/accept_redirects": "0",
    "net/ipv4/conf/default/accept_redirects": "0",
    "net/ipv4/conf/all/send_redirects": "0",
    "net/ipv4/conf/default/send_redirects": "0",
    "net/ipv4/conf/all/accept_source_route": "0",
    "net/ipv4/conf/all/arp_ignore": "1",
    "net/ipv4/conf/all/arp_announce": "2",
    "net/ipv6/conf/all/disable_ipv6": "1",
    "net/ipv6/conf/default/disable_ipv6": "1",
    # The edge opens many connections from one address.
    "net/ipv4/ip_local_port_range": "1024 65535",
}
BRIDGE_SYSCTLS = {
    # Bridged frames are the bridge table's business; passing them through the inet table as well would filter them
    # twice and drop them. A kernel without br_netfilter doesn't have these.
    "net/bridge/bridge-nf-call-iptables": "0",
    "net/bridge/bridge-nf-call-ip6tables": "0",
    "net/bridge/bridge-nf-call-arptables": "0",
}
INSTANCE_SYSCTLS = {
    "net/ipv6/conf/all/disable_ipv6": "1",
    "net/ipv6/conf/default/disable_ipv6": "1",
    # A namespace of one's own has no port that needs root: images that run as another user listen on 80 too.
    "net/ipv4/ip_unprivileged_port_start": "0",
    "net/ipv4/ping_group_range": "0 2147483647",
}

_MTU = 1500
_PERMANENT = 0x80  # NUD_PERMANENT
_STATIC = 0x40  # NUD_NOARP: in a bridge's table, known for ever. PERMANENT would mean the bridge's own address there.
_MASTER = 0x04  # NTF_MASTER: the bridge's table, not the interface's own
_TABLE_LOCAL = 255
_ROUTE_LOCAL = 2  # RTN_LOCAL
_UP_AND_CARRIER = 0x1 | 0x10000  # IFF_UP, IFF_LOWER_UP


@dataclass(frozen=True, slots=True)
class PluggedPort:
    """A port as the kernel shows it."""

    id: InstanceId
    address: IPv4Address
    name: str


def write_sysctls(values: dict[str, str], *, optional: bool = False) -> None:
    """/proc/sys/net shows the calling thread's namespace."""
    for name, value in values.items():
        path = Path("/proc/sys", name)
        try:
            if path.read_text().split() != value.split():
                path.write_text(value)
        except FileNotFoundError:
            # No IPv6 in this kernel: nothing to switch off.
            if not optional and "ipv6" not in name:
                raise


def host_networks() -> frozenset[IPv4Network]:
    """Every address that the kernel here takes for its own, whole prefixes of them included (AnyIP)."""
    with _netlink() as netlink:
        routes = netlink.get_routes(family=socket.AF_INET, table=_TABLE_LOCAL)
        return frozenset(
            IPv4Network((route.get_attr("RTA_DST"), route["dst_len"]))
            for route in routes
            if route["type"] == _ROUTE_LOCAL and route.get_attr("RTA_DST")
        )


def ensure_bridge(subnet: IPv4Network) -> None:
    gateway = gateway_of(subnet)
    with _netlink() as netlink:
        netlink.link("set", index=1, state="up")
        index = _find(netlink, BRIDGE)
        if index is None:
            # A MAC address of its own: a bridge without one takes its ports' lowest, and changes it with them.
            # No spanning tree and no multicast snooping: nobody on this wire may talk to the bridge itself.
            netlink.link("add", ifname=BRIDGE, kind="bridge", address=mac_of(gateway), mtu=_MTU, br_mcast_snooping=0)
            index = _get(netlink, BRIDGE)
        netlink.link("set", index=index, state="up")
        netlink.addr("replace", index=index, address=str(gateway), prefixlen=subnet.prefixlen)


def has_way_out() -> bool:
    """Whether slirp4netns holds its interface, and the default route leads there."""
    with _netlink() as netlink:
        index = _find(netlink, TAP)
        if index is None:
            return False
        link = netlink.get_links(index)[0]
        if link["flags"] & _UP_AND_CARRIER != _UP_AND_CARRIER:
            return False
        routes = netlink.get_routes(family=socket.AF_INET, table=254)
        return any(route["dst_len"] == 0 and route.get_attr("RTA_OIF") == index for route in routes)


def plugged_ports() -> list[PluggedPort]:
    found = []
    for name, alias in dump.links():
        owner = parse_alias(alias)
        if owner is not None:
            found.append(PluggedPort(*owner, name))
    return found


def ensure_cable(id: InstanceId, address: IPv4Address, instance_namespace: int) -> None:
    """
    A pair of interfaces, one end a port of the bridge, the other inside the instance's namespace. The port can reach
    the bridge itself and nothing else, and gets only frames for its own address.
    """
    name = port_name(id)
    with _netlink() as netlink:
        bridge = _get(netlink, BRIDGE)
        index = _find(netlink, name)
        if index is None:
            netlink.link(
                "add",
                ifname=name,
                kind="veth",
                mtu=_MTU,
                master=bridge,
                peer={"ifname": INSIDE, "net_ns_fd": instance_namespace, "address": mac_of(address), "mtu": _MTU},
            )
            index = _get(netlink, name)
        netlink.link("set", index=index, ifalias=alias_of(id, address))
        netlink.link("set", index=index, master=bridge)
        netlink.brport(
            "set", index=index, isolated=1, learning=0, unicast_flood=0, mcast_flood=0, bcast_flood=0, guard=1
        )
        try:
            netlink.fdb("add", ifindex=index, lladdr=mac_of(address), state=_STATIC, flags=_MASTER)
        except NetlinkError as error:
            if error.code != errno.EEXIST:
                raise
            _refuse_taken_address(netlink, id, address, index)
        netlink.neigh("replace", ifindex=bridge, lladdr=mac_of(address), dst=str(address), state=_PERMANENT)
        netlink.link("set", index=index, state="up")


def find_plugged(id: InstanceId) -> IPv4Address | None:
    """The address that the instance's port was made for; None if there is no port, or an unfinished one."""
    with _netlink() as netlink:
        index = _find(netlink, port_name(id))
        if index is None:
            return None
        owner = parse_alias(netlink.get_links(index)[0].get_attr("IFLA_IFALIAS") or "")
        return owner[1] if owner is not None and owner[0] == id else None


def unplug(id: InstanceId, address: IPv4Address | None) -> None:
    """Deleting one end deletes both, at once; leaving it to the end of the namespace would be some time later."""
    with _netlink() as netlink:
        index = _find(netlink, port_name(id))
        if index is not None:
            with _ignored(errno.ENODEV):
                netlink.link("del", index=index)
        bridge = _find(netlink, BRIDGE)
        if address is not None and bridge is not None:
            with _ignored(errno.ENOENT):
                netlink.neigh("del", ifindex=bridge, dst=str(address), lladdr=mac_of(address))


def has_port(id: InstanceId) -> bool:
    with _netlink() as netlink:
        return _find(netlink, port_name(id)) is not None


def has_inside() -> bool:
    """Whether an end of a cable is in this (the instance's) namespace."""
    with _netlink() as netlink:
        return _find(netlink, INSIDE) is not None


def unplug_inside() -> None:
    """The other end of `unplug`, for a cable whose bridge is gone."""
    with _netlink() as netlink:
        index = _find(netlink, INSIDE)
        if index is not None:
            with _ignored(errno.ENODEV):
                netlink.link("del", index=index)


def ensure_inside(address: IPv4Address, subnet: IPv4Network) -> None:
    """From inside the instance's namespace: its interface, address and way to the gateway."""
    gateway = gateway_of(subnet)
    with _netlink() as netlink:
        index = _get(netlink, INSIDE)
        netlink.link("set", index=1, state="up")
        netlink.link("set", index=index, address=mac_of(address), mtu=_MTU, state="up")
        for other in netlink.get_addr(family=socket.AF_INET, index=index):
            if other.get_attr("IFA_ADDRESS") != str(address):
                netlink.addr("del", index=index, address=other.get_attr("IFA_ADDRESS"), prefixlen=other["prefixlen"])
        netlink.addr("replace", index=index, address=str(address), prefixlen=subnet.prefixlen)
        netlink.addr("replace", index=1, address="127.0.0.1", prefixlen=8)
        netlink.route("replace", dst="default", gateway=str(gateway), oif=index)
        netlink.neigh("replace", ifindex=index, lladdr=mac_of(gateway), dst=str(gateway), state=_PERMANENT)


def as_filter_port(port: PluggedPort) -> Port:
    return Port(port.name, port.address)


def _refuse_taken_address(netlink: Any, id: InstanceId, address: IPv4Address, index: int) -> None:
    for entry in netlink.fdb("dump"):
        if entry.get_attr("NDA_LLADDR") == mac_of(address) and entry["ifindex"] != index:
            holder = netlink.get_links(entry["ifindex"])[0].get_attr("IFLA_IFALIAS")
            raise Conflict(f"Address {address}, wanted for {id}, is held by {holder or 'another interface'}.")


def _find(netlink: Any, name: str) -> int | None:
    found = netlink.link_lookup(ifname=name)
    return found[0] if found else None


def _get(netlink: Any, name: str) -> int:
    index = _find(netlink, name)
    if index is None:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), name)
    return index


@contextlib.contextmanager
def _netlink() -> Iterator[Any]:
    """A netlink socket of the calling thread's namespace. What the kernel refuses is an OSError, as everywhere."""
    netlink = IPRoute()
    try:
        yield netlink
    except NetlinkError as error:
        raise OSError(error.code, os.strerror(error.code)) from error
    finally:
        netlink.close()


@contextlib.contextmanager
def _ignored(code: int) -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        if error.code != code:
            raise
