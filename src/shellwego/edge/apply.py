"""How is a plan carried out on a running HAProxy?

Step by step in the plan's order, each kind of step in one conversation. A step that HAProxy refuses stops those that
stand on it (an app whose new server was refused keeps its old ones) and nobody else's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shellwego.edge.config import SERVER_OPTIONS, ProxyPaths
from shellwego.edge.routes import Mode, RoutePlan
from shellwego.edge.socket import (
    RuntimeSocket,
    add_server,
    delete_server,
    put_in_map,
    set_mode,
    shutdown_sessions,
    take_from_map,
)
from shellwego.kit.faults import FaultPoint, fault_point, reach

CLAIM = fault_point("edge.apply.claim")
ADD = fault_point("edge.apply.add")
READY = fault_point("edge.apply.ready")
MAP = fault_point("edge.apply.map")
UNMAP = fault_point("edge.apply.unmap")
DRAIN = fault_point("edge.apply.drain")
RETIRE = fault_point("edge.apply.retire")
SHUTDOWN = fault_point("edge.apply.shutdown")
DELETE = fault_point("edge.apply.delete")
RELEASE = fault_point("edge.apply.release")
APPLIED = fault_point("edge.apply.done")

_SUCCESS = frozenset({"", "New server registered.", "Server deleted."})

Step = tuple[str, tuple[str, ...]]
"""The backend that it concerns, and its commands."""


@dataclass(frozen=True, slots=True)
class Applied:
    """`kept` are servers (slot, name) that HAProxy would not delete yet: requests or connections are open."""

    problems: tuple[str, ...]
    kept: frozenset[tuple[str, str]]


async def apply_plan(runtime: RuntimeSocket, paths: ProxyPaths, plan: RoutePlan) -> Applied:
    """Take the steps. Raises ProxyUnavailable, after which nobody knows how far it came: look again."""
    hosts, owners = paths.hosts_map, paths.owners_map
    problems: list[str] = []
    failed: set[str] = set()

    async def take(point: FaultPoint, steps: Sequence[Step]) -> list[int]:
        """Which of the steps were refused."""
        due = [(index, *step) for index, step in enumerate(steps) if step[0] not in failed]
        if not due:
            return []
        await reach(point)
        answers = iter(await runtime.ask([line for _, _, lines in due for line in lines]))
        refused = []
        for index, backend, lines in due:
            bad = [(line, answer) for line in lines if (answer := next(answers)) not in _SUCCESS]
            if bad:
                refused.append(index)
                if point is not DELETE:
                    failed.add(backend)
                    problems.extend(f"HAProxy refused {line!r}: {answer}" for line, answer in bad)
        return refused

    await take(CLAIM, [(slot, (put_in_map(owners, slot, app, exists=False),)) for slot, app in plan.claims])
    await take(ADD, [(slot, add_server(slot, target, SERVER_OPTIONS)) for slot, target in plan.adds])
    await take(READY, [(slot, (set_mode(slot, name, Mode.READY),)) for slot, name in plan.readies])
    await take(MAP, [(there, (put_in_map(hosts, host, there, exists=exists),)) for host, there, exists in plan.maps])
    await take(UNMAP, [("", (take_from_map(hosts, host),)) for host in plan.unmaps])
    await take(DRAIN, [(slot, (set_mode(slot, name, Mode.DRAIN),)) for slot, name in plan.drains])
    await take(RETIRE, [(slot, (set_mode(slot, name, Mode.MAINT),)) for slot, name in plan.retires])
    await take(SHUTDOWN, [(slot, (shutdown_sessions(slot, name),)) for slot, name in plan.shutdowns])
    busy = await take(DELETE, [(slot, (delete_server(slot, name),)) for slot, name in plan.deletes])
    kept = frozenset(plan.deletes[index] for index in busy)
    holding = {slot for slot, _ in kept}
    await take(RELEASE, [(slot, (take_from_map(owners, slot),)) for slot in plan.releases if slot not in holding])
    await reach(APPLIED)
    return Applied(tuple(problems), kept)
