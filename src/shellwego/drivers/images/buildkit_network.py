"""What may a build reach?

The internet, through slirp4netns (a process, not a route: the host's forwarding and filters stay untouched), and
names, by slirp's own resolver. Not the host, by any of its addresses; not the networks that are private to whoever
runs it; not the link-local addresses where clouds keep credentials; and no other build, since each daemon has a
network namespace of its own. The rules are inside that namespace, and steps have no capability to change them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable
from pathlib import Path

from shellwego.core.networks import METADATA, AllowedNetwork
from shellwego.kit.commands import Command

RESOLVER = "10.0.2.3"
"""slirp4netns answers DNS here, with the host's own resolver."""

TAP = "tap0"

_NEVER = (
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",  # RFC 6598, and what overlay networks such as Tailscale use
    "127.0.0.0/8",
    "168.63.129.16/32",  # Azure's metadata
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",  # RFC 6890, and Oracle's metadata
    "192.168.0.0/16",
    "198.18.0.0/15",
    "224.0.0.0/4",
    "240.0.0.0/4",
)


def namespace_add(name: str) -> Command:
    return ("ip", "netns", "add", name)


def namespace_delete(name: str) -> Command:
    return ("ip", "netns", "delete", name)


def loopback_up(name: str) -> Command:
    return ("ip", "-n", name, "link", "set", "lo", "up")


def host_addresses() -> Command:
    return ("ip", "-json", "address", "show")


def slirp(program: str, namespace: Path, ready_descriptor: int) -> Command:
    """The way out of the namespace."""
    return (
        program,
        "--configure",
        "--mtu=65520",
        "--disable-host-loopback",
        "--enable-sandbox",
        f"--ready-fd={ready_descriptor}",
        "--netns-type=path",
        str(namespace),
        TAP,
    )


def apply_rules(name: str) -> Command:
    """Reads the rules from its standard input."""
    return ("ip", "netns", "exec", name, "nft", "-f", "-")


def filter_rules(host: Iterable[str], reachable: Collection[AllowedNetwork] = ()) -> str:
    """
    nftables rules of a builder's namespace, replacing older ones at once. `host` are the host's own addresses;
    `reachable` are networks that the operator lets builds reach nevertheless (a mirror in their own network, say); the
    host in them only where it is named by its address alone.
    """
    own = [f"{address}/32" for address in map(ipaddress.ip_address, host) if address.version == 4]
    denied = sorted({*_NEVER, *own})
    itself = [f"    ip daddr {{ {', '.join(own)} }} reject with icmp admin-prohibited"] if own else []
    lines = [
        "add table inet shellwego_build",
        "delete table inet shellwego_build",
        "table inet shellwego_build {",
        "  set denied {",
        "    type ipv4_addr; flags interval; auto-merge;",
        f"    elements = {{ {', '.join(denied)} }}",
        "  }",
        "  chain output {",
        "    type filter hook output priority 0; policy accept;",
        '    oifname "lo" accept',
        f"    ip daddr {RESOLVER} meta l4proto {{ tcp, udp }} th dport 53 accept",
        f"    ip daddr {{ {', '.join(METADATA)} }} reject with icmp admin-prohibited",
        *(_accepting(entry) for entry in reachable if entry.is_one_address),
        *(itself if reachable else ()),
        *(_accepting(entry) for entry in reachable if not entry.is_one_address),
        "    ip daddr @denied meta l4proto tcp reject with tcp reset",  # At once; a program waits out an ICMP answer.
        "    ip daddr @denied reject with icmp admin-prohibited",
        "    meta nfproto ipv6 reject",
        "  }",
        "}",
    ]
    return "\n".join(lines) + "\n"


def _accepting(entry: AllowedNetwork) -> str:
    ports = f" meta l4proto {{ tcp, udp }} th dport {{ {', '.join(map(str, entry.ports))} }}" if entry.ports else ""
    return f"    ip daddr {entry.network}{ports} accept"
