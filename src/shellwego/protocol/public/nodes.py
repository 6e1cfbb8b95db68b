"""A node, and what runs there."""

from __future__ import annotations

import datetime as dt

from shellwego.core.nodes import NodeState
from shellwego.protocol.public.bodies import Answer


class Node(Answer):
    id: str
    name: str
    state: NodeState
    version: str
    runtimes: list[str]
    memory_mib: int
    memory_used_mib: int
    """Promised to instances, not measured."""
    cpu_millis: int
    cpu_used_millis: int
    disk_free_mib: int
    disk_total_mib: int
    instances: int
    unclaimed: list[str] = []
    """Instances that run there and that this server knows nothing of. They are never removed by themselves."""
    warnings: list[str] = []
    last_seen_at: dt.datetime | None = None
