"""What is each part of a cloud's network called on the host?

Names are derived, never stored: whoever knows the prefix and an id finds the part, also after every process was
killed. An interface's name has at most 15 characters (IFNAMSIZ), so a port carries the first 14 of its instance's 20.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address
from pathlib import Path

from shellwego.core.ids import InstanceId

NAMESPACES = Path("/run/netns")
"""Where ip-netns(8) and everybody else keeps named network namespaces."""

BRIDGE = "swg0"
TAP = "tap0"
INSIDE = "eth0"

_RANDOM_PART = re.compile(r"[a-z2-7]{20}")


def random_part(id: InstanceId) -> str:
    """The id without its kind. Raises ValueError for what isn't an instance's id: names go into paths."""
    part = id.removeprefix("ins_")
    if _RANDOM_PART.fullmatch(part) is None or part == id:
        raise ValueError(f"{id!r} is not an instance's id")
    return part


def port_name(id: InstanceId) -> str:
    """The bridge's end of the instance's cable."""
    return f"v{random_part(id)[:14]}"


def instance_namespace(prefix: str, id: InstanceId) -> Path:
    return NAMESPACES / f"{prefix}-{random_part(id)}"


def instance_of(prefix: str, namespace: str) -> InstanceId | None:
    """Whose namespace that is; None for the data plane, for other clouds', and for other programs'."""
    start, part = namespace[: len(prefix) + 1], namespace[len(prefix) + 1 :]
    if start != f"{prefix}-" or _RANDOM_PART.fullmatch(part) is None:
        return None
    return InstanceId(f"ins_{part}")


def mac_of(address: IPv4Address) -> str:
    """A locally administered MAC address that follows from the IP address: nobody has to ask by ARP who has it."""
    return "0a:58:" + ":".join(f"{byte:02x}" for byte in address.packed)


def alias_of(id: InstanceId, address: IPv4Address) -> str:
    """What a port's ifalias says, so that the kernel itself remembers whose port it is."""
    return f"{id} {address}"


def parse_alias(alias: str) -> tuple[InstanceId, IPv4Address] | None:
    id, _, address = alias.partition(" ")
    try:
        random_part(InstanceId(id))
        return InstanceId(id), IPv4Address(address)
    except ValueError:
        return None
