"""Which packets may pass in the data plane?

Everything that isn't named here is dropped. The rules are text made by pure functions and loaded in one transaction,
so there is no moment with half of them; what changes often (the ports, the host's addresses) stands in sets.

Two tables guard the two ways a packet can take. `bridge` sees each frame as it comes out of an instance's port, and
lets only IPv4 and ARP with that port's own addresses in. `inet` decides where a packet may go from there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, collapse_addresses, summarize_address_range
from pathlib import Path

from shellwego.core.networks import METADATA, AllowedNetwork
from shellwego.drivers.network.names import BRIDGE, TAP, mac_of
from shellwego.drivers.network.pool import gateway_of
from shellwego.kit.commands import Command

TABLE = "shellwego"
RESOLVER = IPv4Address("10.0.2.3")
"""slirp4netns answers DNS there with the host's own resolver."""

NEVER_OUTSIDE = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # "this host", which Linux takes for itself
        "10.0.0.0/8",  # RFC 1918, here also slirp4netns's own side
        "100.64.0.0/10",  # RFC 6598: carriers, mesh VPNs, the metadata services of some clouds
        "127.0.0.0/8",
        "169.254.0.0/16",  # link-local: metadata services with the node's credentials
        "168.63.129.16/32",  # Azure's: it gives the node's certificates to whoever asks from the node
        "172.16.0.0/12",
        "192.0.0.0/24",  # RFC 6890, Oracle's metadata among others
        "192.168.0.0/16",
        "198.18.0.0/15",  # RFC 2544, used inside data centres
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
"""What an instance can't reach because it is the operator's, not the internet."""


@dataclass(frozen=True, slots=True, order=True)
class Port:
    """One plug of the bridge and the only address that may come out of it."""

    name: str
    address: IPv4Address


@dataclass(frozen=True, slots=True)
class Chain:
    family: str
    name: str
    hook: str
    rules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Filter:
    """Everything that the rules follow from, except the ports and the host's addresses."""

    subnet: IPv4Network
    connections_per_instance: int
    allowed: tuple[AllowedNetwork, ...] = ()

    def chains(self) -> tuple[Chain, ...]:
        gateway = gateway_of(self.subnet)
        return (
            Chain(
                "bridge",
                "from_port",
                "type filter hook prerouting priority -300; policy drop;",
                (
                    "ether type ip iifname . ether saddr . ip saddr @ports accept",
                    # Only the gateway may be asked for; there is nobody else to talk to on this wire.
                    f"ether type arp arp daddr ip {gateway} iifname . ether saddr . arp saddr ip @ports "
                    "iifname . arp saddr ether . arp saddr ip @ports accept",
                ),
            ),
            # Ports are isolated as well (bridge(8)); this holds if somebody takes that flag off.
            Chain("bridge", "between_ports", "type filter hook forward priority 0; policy drop;", ()),
            Chain(
                "bridge",
                "to_port",
                "type filter hook output priority 0; policy drop;",
                ("ether type { ip, arp } accept",),
            ),
            # The edge's connections to instances stay out of connection tracking: a tenant that fills the table
            # with its own can't close the way in.
            Chain(
                "inet",
                "untracked_in",
                "type filter hook prerouting priority raw; policy accept;",
                ("meta nfproto ipv6 drop", f'iifname "{BRIDGE}" ip daddr {gateway} notrack'),
            ),
            Chain(
                "inet",
                "untracked_out",
                "type filter hook output priority raw; policy accept;",
                (f'oifname "{BRIDGE}" notrack',),
            ),
            Chain(
                "inet",
                "input",
                "type filter hook input priority filter; policy drop;",
                (
                    'iifname "lo" accept',
                    # Replies to the edge: never the first packet of a connection.
                    f'iifname "{BRIDGE}" ip daddr {gateway} tcp flags & (syn | ack) != syn '
                    "tcp flags & (rst | ack) != 0 accept",
                    f'iifname "{TAP}" ct state established,related accept',
                ),
            ),
            Chain("inet", "forward", "type filter hook forward priority filter; policy drop;", self._forward()),
            Chain(
                "inet",
                "output",
                "type filter hook output priority filter; policy accept;",
                ("meta nfproto ipv6 drop",),
            ),
            Chain(
                "inet",
                "source",
                "type nat hook postrouting priority srcnat; policy accept;",
                (f'oifname "{TAP}" ip saddr {self.subnet} masquerade',),
            ),
        )

    def _forward(self) -> tuple[str, ...]:
        reject = "reject with icmp admin-prohibited"
        named = tuple(rule for entry in self.allowed if entry.is_one_address for rule in _accepting(entry))
        within = tuple(rule for entry in self.allowed if not entry.is_one_address for rule in _accepting(entry))
        return (
            "meta nfproto ipv6 drop",
            "ct state invalid drop",
            "ct state established,related accept",
            # A refusal that is heard: an app that tries gets an error at once, not after two minutes.
            f'iifname "{BRIDGE}" oifname "{BRIDGE}" {reject}',
            f'iifname != "{BRIDGE}" drop',
            f'oifname != "{TAP}" drop',
            # The table of connections is shared by all tenants: nobody may fill it.
            f"ct state new add @connections {{ ip saddr ct count over {self.connections_per_instance} }} "
            "counter reject with icmp host-prohibited",
            f"ip daddr {RESOLVER} meta l4proto {{ tcp, udp }} th dport 53 accept",
            f"ip daddr {{ {', '.join(METADATA)} }} {reject}",  # Also inside a network that is opened.
            *named,
            # Whoever opens the network that the node is in doesn't mean the node itself, unless they name it.
            f"ip daddr @host {reject}",
            *within,
            f"ip daddr @never_outside {reject}",
            "accept",
        )

    def fingerprint(self) -> str:
        """Stands as a comment in the tables, so that an older version's rules are recognised and replaced."""
        return hashlib.sha256(repr((self, self.chains(), NEVER_OUTSIDE)).encode()).hexdigest()[:16]


def whole(filter: Filter, host: Iterable[IPv4Network], ports: Iterable[Port]) -> str:
    """A transaction that replaces whatever tables of ours there are."""
    bridge = f'comment "{filter.fingerprint()}"\nset ports {{ type ifname . ether_addr . ipv4_addr; }}\n'
    inet = (
        f'comment "{filter.fingerprint()}"\n'
        "set host { type ipv4_addr; flags interval; auto-merge; }\n"
        "set never_outside { type ipv4_addr; flags interval; elements = { "
        + ", ".join(map(str, NEVER_OUTSIDE))
        + " } }\n"
        f"set connections {{ type ipv4_addr; size {filter.subnet.num_addresses}; flags dynamic; }}\n"
    )
    lines = []
    for family, declarations in (("bridge", bridge), ("inet", inet)):
        chains = "".join(
            f"chain {chain.name} {{\n{chain.hook}\n" + "".join(f"{rule}\n" for rule in chain.rules) + "}\n"
            for chain in filter.chains()
            if chain.family == family
        )
        # Adding first makes deleting safe where there is none.
        lines += [f"add table {family} {TABLE}", f"delete table {family} {TABLE}"]
        lines += [f"table {family} {TABLE} {{\n{declarations}{chains}}}"]
    return "\n".join(lines) + "\n" + sets(host, ports)


def sets(host: Iterable[IPv4Network], ports: Iterable[Port]) -> str:
    """A transaction that makes both sets hold exactly this."""
    text = f"flush set inet {TABLE} host\nflush set bridge {TABLE} ports\n"
    networks = ", ".join(map(str, sorted(set(host))))
    elements = ", ".join(map(_element, sorted(set(ports))))
    if networks:
        text += f"add element inet {TABLE} host {{ {networks} }}\n"
    if elements:
        text += f"add element bridge {TABLE} ports {{ {elements} }}\n"
    return text


def admit(port: Port) -> str:
    return f"add element bridge {TABLE} ports {{ {_element(port)} }}\n"


def refuse(port: Port) -> str:
    """Adding first makes deleting safe where it is gone already."""
    return admit(port) + f"delete element bridge {TABLE} ports {{ {_element(port)} }}\n"


@dataclass(frozen=True, slots=True)
class Loaded:
    """What `nft -j list ruleset` shows of our tables."""

    fingerprints: frozenset[tuple[str, str]]
    rules: dict[tuple[str, str], int]
    host: frozenset[IPv4Network]
    ports: frozenset[Port]

    def holds(self, filter: Filter) -> bool:
        """Whether every table, chain and rule of the filter is there."""
        wanted = {(chain.family, chain.name): len(chain.rules) for chain in filter.chains()}
        mark = filter.fingerprint()
        return self.fingerprints == {("bridge", mark), ("inet", mark)} and self.rules == wanted


def parse_loaded(text: str) -> Loaded:
    fingerprints: set[tuple[str, str]] = set()
    rules: dict[tuple[str, str], int] = {}
    host: set[IPv4Network] = set()
    ports: set[Port] = set()
    for entry in json.loads(text).get("nftables", []):
        for kind, body in entry.items():
            if kind == "table" and body["name"] == TABLE:
                fingerprints.add((body["family"], body.get("comment", "")))
            if body.get("table") != TABLE:
                continue
            if kind == "chain":
                rules.setdefault((body["family"], body["name"]), 0)
            elif kind == "rule":
                key = body["family"], body["chain"]
                rules[key] = rules.get(key, 0) + 1
            elif kind == "set" and body["name"] == "host":
                host |= _networks(body.get("elem", []))
            elif kind == "set" and body["name"] == "ports":
                ports |= _ports(body.get("elem", []))
    return Loaded(frozenset(fingerprints), rules, frozenset(host), frozenset(ports))


def merged(networks: Iterable[IPv4Network]) -> frozenset[IPv4Network]:
    """As `auto-merge` would hold them, to compare with."""
    return frozenset(collapse_addresses(networks))


def run_nft(nft: Path, namespace: Path, *arguments: str) -> Command:
    """nsenter(1) moves the child, so the caller stays where it is."""
    return ("nsenter", f"--net={namespace}", "--", str(nft), *arguments)


def _accepting(entry: AllowedNetwork) -> tuple[str, ...]:
    if not entry.ports:
        return (f"ip daddr {entry.network} accept",)
    ports = ", ".join(map(str, entry.ports))
    return (f"ip daddr {entry.network} meta l4proto {{ tcp, udp }} th dport {{ {ports} }} accept",)


def _element(port: Port) -> str:
    return f'"{port.name}" . {mac_of(port.address)} . {port.address}'


def _networks(elements: list[object]) -> set[IPv4Network]:
    found: list[IPv4Network] = []
    for element in elements:
        match element:
            case str():
                found.append(IPv4Network(element))
            case {"prefix": {"addr": str(address), "len": int(length)}}:
                found.append(IPv4Network((address, length)))
            case {"range": [str(first), str(last)]}:
                found.extend(summarize_address_range(IPv4Address(first), IPv4Address(last)))
    return set(collapse_addresses(found))


def _ports(elements: list[object]) -> set[Port]:
    found = set()
    for element in elements:
        match element:
            case {"concat": [str(name), str(mac), str(address)]} if mac == mac_of(IPv4Address(address)):
                found.add(Port(name, IPv4Address(address)))
            case _:
                # Not one of ours: compare unequal, so that the set is written anew.
                found.add(Port("", IPv4Address(0)))
    return found
