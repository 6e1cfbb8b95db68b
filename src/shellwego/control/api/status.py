"""The whole cloud in one answer."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from fastapi import APIRouter

from shellwego.control.api import answers
from shellwego.control.api.calls import AnyCall
from shellwego.control.api.parts import ApiSettings
from shellwego.control.api.strict_json import StrictRoute
from shellwego.control.store import Tenant
from shellwego.core.apps import AppStatus
from shellwego.core.nodes import MEND_THE_DISK, NodeState
from shellwego.core.quantities import MIB
from shellwego.kit.disks import look_at_disk
from shellwego.protocol import public

router = APIRouter(prefix="/v1/status", tags=["status"], route_class=StrictRoute)

_PAGE = 100
"""So many apps are looked at at once."""
NO_ROOM_BYTES = 4 * MIB
"""A commit of SQLite may need so much for its log."""


@router.get("", operation_id="getStatus")
async def get_status(call: AnyCall) -> public.CloudStatus:
    """Operators see the cloud; others their own organisation, without nodes and edges."""
    operator = call.caller.operator
    tenant = call.work.for_the_cloud() if operator else call.tenant
    settings = call.parts.settings
    apps, crashed = await _look_at_apps(tenant, settings)
    nodes = await answers.nodes(call.work, call.work.now) if operator else []
    edges = await call.work.edges.all() if operator else []
    instances = await tenant.instances.count_by_state()
    connected = call.parts.agents.connected
    problems = [
        *(await asyncio.to_thread(_disk_problems, settings.directory) if operator else ()),
        *(
            f"Node {n.name} isn't connected. Its apps go on running; look at its agent."
            for n in nodes
            if _is_away(n, connected)
        ),
        *(f"Node {n.name}: {warning}" for n in nodes for warning in n.warnings),
        *(
            f"Node {n.name} runs {len(n.unclaimed)} instances that this server knows nothing of: has it an older or an "
            f"empty database? They go on and are never removed by themselves. Put the right database back; "
            f"docs/how-to/back-up-and-restore.md says how."
            for n in nodes
            if n.unclaimed
        ),
        *(f"Edge {e.id}: {problem}" for e in edges for problem in e.problems),
        *crashed,
    ]
    if operator and not nodes:
        problems.insert(0, "There is no node yet: nothing can run. Start an agent.")
    return public.CloudStatus(
        version=settings.version,
        domain=settings.domain,
        apps=dict(sorted(apps.items())),
        instances={state.value: count for state, count in sorted(instances.items())},
        nodes=nodes,
        edges=[_edge(dataclasses.asdict(edge)) for edge in edges],
        problems=problems,
    )


async def _look_at_apps(tenant: Tenant, settings: ApiSettings) -> tuple[Counter[str], list[str]]:
    """How many there are of each status, and what is wrong with those that crashed."""
    counts: Counter[str] = Counter()
    crashed: list[str] = []
    after = None
    while page := await tenant.apps.page(limit=_PAGE, after=after):
        after = page[-1].name
        for app in await answers.apps(tenant, page, settings):
            counts[app.status.value] += 1
            if app.status is AppStatus.CRASHED:
                crashed.append(f"App {app.name} has crashed: {app.status_reason}. See `shellwego logs {app.name}`.")
        await asyncio.sleep(0)  # Neither memory nor anybody's request should feel that there are thousands.
    return counts, crashed


def _edge(fields: dict[str, object]) -> dict[str, object]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}


def _is_away(node: public.Node, connected: Collection[str]) -> bool:
    """Silent, as far as the database knows: while it can't be written, heartbeats are heard and not kept."""
    return node.state is NodeState.UNREACHABLE and node.id not in connected


def _disk_problems(directory: Path) -> list[str]:
    """Whether the server can write. Nodes tell of their own disks, but a full database keeps no word of theirs."""
    try:
        disk = look_at_disk(directory)
    except OSError as error:
        return [f"The server's directory can't be reached: {error.strerror}. Check its disk."]
    if disk.read_only:
        return [f"The server's disk is read-only: nothing can be changed. {MEND_THE_DISK}"]
    if disk.free_bytes < NO_ROOM_BYTES:
        return ["The server's disk is full: nothing can be changed until there is room. Apps go on; free some space."]
    return []
