"""Which networks of their own do operators open to apps and builds, and which proxies do they believe?

Everything private is closed to tenants by default. An entry opens one network, or one address, with all ports or some:
`10.0.5.7:5432`. Nothing opens loopback, link-local or multicast ranges: what clouds keep a machine's credentials at
stays out of reach whatever is written.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, ip_network

from shellwego.core.errors import InvalidField

METADATA = ("100.100.100.200", "168.63.129.16", "169.254.0.0/16", "192.0.0.192")
"""Where Alibaba, Azure, most others and Oracle keep a machine's credentials."""

_CLOSED = tuple(
    IPv4Network(text) for text in ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4")
)
_PORTS = re.compile(r"[0-9]{1,5}(?:,[0-9]{1,5}){0,15}")


@dataclass(frozen=True, slots=True)
class AllowedNetwork:
    """A destination of the operator's own that tenants may reach: these TCP and UDP ports, or all of them."""

    network: IPv4Network
    ports: tuple[int, ...] = ()

    @property
    def is_one_address(self) -> bool:
        return self.network.prefixlen == 32

    def holds(self, address: IPv4Address, port: int) -> bool:
        return address in self.network and (not self.ports or port in self.ports)

    def __str__(self) -> str:
        where = str(self.network.network_address) if self.is_one_address else str(self.network)
        return f"{where}:{','.join(map(str, self.ports))}" if self.ports else where


def parse_allowed_network(text: str, *, field: str) -> AllowedNetwork:
    """`10.0.5.0/24`, `10.0.5.7` or `10.0.5.7:5432,6379`. Raises InvalidField naming `field`."""
    where, colon, ports = text.strip().partition(":")
    try:
        network = IPv4Network(where)
    except ValueError as error:
        raise InvalidField(
            field, f"{text[:80]!r} is not a network. Write it like 10.0.5.0/24, 10.0.5.7 or 10.0.5.7:5432."
        ) from error
    numbers = tuple(int(port) for port in ports.split(",")) if _PORTS.fullmatch(ports) else ()
    if colon and (not numbers or not all(1 <= number <= 65535 for number in numbers)):
        raise InvalidField(field, f"{ports[:80]!r} are not ports. Write them like 5432 or 5432,6379.")
    if any(network.overlaps(closed) for closed in _CLOSED):
        raise InvalidField(
            field, f"{where} can't be opened: it holds loopback, link-local or multicast addresses. Name less."
        )
    return AllowedNetwork(network, numbers)


def parse_trusted_proxy(text: str, *, field: str) -> str:
    """`192.0.2.0/24`, `192.0.2.7` or `2001:db8::/32`, as it shall be kept. Raises InvalidField naming `field`."""
    try:
        network = ip_network(text.strip())
    except ValueError as error:
        raise InvalidField(
            field, f"{text[:80]!r} is not a network. Write it like 192.0.2.0/24, 192.0.2.7 or 2001:db8::/32."
        ) from error
    if network.prefixlen == 0:
        raise InvalidField(field, f"{text[:80]!r} is everybody, and anybody could say to be anybody. Name less.")
    return str(network)
