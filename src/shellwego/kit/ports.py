"""On which port can a program listen, and listen again after it was killed?

On none of those that the kernel gives to outgoing connections (ip(7), `ip_local_port_range`): while the program is
away, and for a minute more of TIME_WAIT, any connection of anybody on the machine may hold the port, and bind(2) says
that the address is in use.
"""

from __future__ import annotations

import contextlib
import random
import socket
from pathlib import Path

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST = 10_000
"""Well-known services live below."""


def outgoing_ports() -> range:
    """The ports that the kernel takes for connections to others."""
    first, last = map(int, _RANGE.read_text().split())
    return range(first, last + 1)


def free_ports(count: int) -> list[int]:
    """Different TCP ports of 127.0.0.1 that nothing listens on now and no outgoing connection will take."""
    taken = outgoing_ports()
    candidates = [port for port in range(_LOWEST, 65_536) if port not in taken]
    random.SystemRandom().shuffle(candidates)  # Whoever seeds the other one gets the same ports in each process.
    with contextlib.ExitStack() as probes:
        return [_first_free(candidates, probes) for _ in range(count)]


def _first_free(candidates: list[int], probes: contextlib.ExitStack) -> int:
    """The next candidate that can be had. It is held until the probes are closed, so that nobody else finds it free."""
    while candidates:
        port = candidates.pop()
        probe = probes.enter_context(socket.socket())
        with contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("Every port that outgoing connections leave alone is in use.")
