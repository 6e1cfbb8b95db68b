"""What does a node offer, and can it be trusted to answer?"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from shellwego.core.ids import NodeId


class NodeState(StrEnum):
    READY = "ready"
    UNHEALTHY = "unhealthy"  # it answers, and says that nothing can start there: its disk takes no writes, say
    UNREACHABLE = "unreachable"  # no heartbeat for longer than UNREACHABLE_AFTER_SECONDS


MEND_THE_DISK = "Apps go on; docs/how-to/when-the-disk-is-full.md says how to check the disk and use it again."

HEARTBEAT_SECONDS = 3.0
UNREACHABLE_AFTER_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Node:
    """A node as the planners see it. Capacity is what instances may use, after the platform's own share."""

    id: NodeId
    state: NodeState
    memory_mib: int
    cpu_millis: int
    runtimes: frozenset[str]
