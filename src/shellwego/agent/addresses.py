"""Which address does an instance get?

Pure choice over a network's addresses: an instance keeps its own for life, two never share one, and one that was given
back rests for a while, so that a proxy or client that still holds it can't reach a stranger.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from ipaddress import IPv4Address

from shellwego.core.errors import ShellWeGoError

COOL_DOWN_SECONDS = 120.0


class NoAddress(ShellWeGoError):
    """Every address of the node's network is taken."""

    code = "no_address"
    retryable = True

    def __init__(self, count: int) -> None:
        super().__init__(f"All {count} addresses of this node's network are taken. Remove instances or add a node.")


def choose_address(
    addresses: Collection[IPv4Address],
    taken: Collection[IPv4Address],
    released: Mapping[IPv4Address, float],
    now: float,
) -> IPv4Address:
    """
    The first address that is free and rested; without one, the free one that rests longest. `released` says when an
    address was given back. Raises NoAddress.
    """
    taken = frozenset(taken)
    resting: list[tuple[float, IPv4Address]] = []
    for address in addresses:
        if address in taken:
            continue
        since = released.get(address)
        # A time in the future means that the clock was set back: rest it anew rather than for ever.
        if since is None or now - since >= COOL_DOWN_SECONDS:
            return address
        resting.append((since, address))
    if not resting:
        raise NoAddress(len(addresses))
    return min(resting)[1]
