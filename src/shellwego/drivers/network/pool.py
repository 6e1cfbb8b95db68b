"""Which addresses may instances have?

All of the subnet but its first and last (network and broadcast, RFC 1122 section 3.2.1.3) and the one after the
first, which is the gateway's. A /16 holds 65 thousand, so they are counted, never listed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network
from typing import overload

DEFAULT_SUBNET = IPv4Network("100.96.0.0/16")
"""From RFC 6598's shared range; seen inside the data plane only, so any number of clouds may use the same."""


def gateway_of(subnet: IPv4Network) -> IPv4Address:
    """The data plane's own address on its bridge."""
    return subnet[1]


class InstanceAddresses(Sequence[IPv4Address]):
    """The addresses of a subnet that instances may have, in order."""

    __slots__ = ("_first", "_length")

    def __init__(self, subnet: IPv4Network) -> None:
        if subnet.num_addresses < 8:
            raise ValueError(f"{subnet} is too small for a data plane: take a /29 or larger")
        self._first = int(subnet.network_address) + 2
        self._length = subnet.num_addresses - 3

    def __len__(self) -> int:
        return self._length

    def __contains__(self, address: object) -> bool:
        return isinstance(address, IPv4Address) and 0 <= int(address) - self._first < self._length

    def __iter__(self) -> Iterator[IPv4Address]:
        return map(IPv4Address, range(self._first, self._first + self._length))

    @overload
    def __getitem__(self, index: int) -> IPv4Address: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[IPv4Address, ...]: ...
    def __getitem__(self, index: int | slice) -> IPv4Address | tuple[IPv4Address, ...]:
        numbers = range(self._first, self._first + self._length)
        if isinstance(index, slice):
            return tuple(map(IPv4Address, numbers[index]))
        return IPv4Address(numbers[index])
