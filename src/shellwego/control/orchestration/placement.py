"""On which node does this instance go?

Memory is a promise and is never given twice; CPU is a ceiling that instances rarely reach together, so it may be
promised OVERCOMMIT_CPU times over. Among the nodes with room the one with the fewest instances of the same app wins,
so that one node's end takes as little of an app as possible; then the one with most memory free.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from shellwego.core.apps import Resources
from shellwego.core.errors import NoCapacity
from shellwego.core.ids import AppId, NodeId
from shellwego.core.nodes import Node, NodeState

OVERCOMMIT_CPU = 8


@dataclass(frozen=True, slots=True)
class Load:
    """What is promised on a node already."""

    memory_mib: int = 0
    cpu_millis: int = 0
    instances_of: Mapping[AppId, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Demand:
    """One instance that needs a place."""

    app: AppId
    resources: Resources
    runtime: str


def plan_placement(
    demands: Sequence[Demand], nodes: Collection[Node], loads: Mapping[NodeId, Load]
) -> tuple[NodeId | NoCapacity, ...]:
    """A node for each demand, in order, each counted before the next is placed; NoCapacity where there is none."""
    loads = dict(loads)
    placed: list[NodeId | NoCapacity] = []
    for demand in demands:
        node = _choose(demand, nodes, loads)
        if node is None:
            ready = [n for n in nodes if n.state is NodeState.READY]
            # A node that has not said yet what it has may be large enough.
            sized = all(n.memory_mib for n in nodes)
            never = bool(nodes) and sized and not any(_could_ever_hold(demand, n) for n in nodes)
            over = nodes if never else ready
            held: Mapping[NodeId, Load] = {} if never else loads
            placed.append(
                NoCapacity(
                    needed_mib=demand.resources.memory_mib,
                    largest_free_mib=max((_free_mib(n, held) for n in over), default=0),
                    needed_millis=demand.resources.cpu_millis,
                    largest_free_millis=max((_free_millis(n, held) for n in over), default=0),
                    never=never,
                    none_ready=not ready,
                )
            )
            continue
        placed.append(node.id)
        load = loads.get(node.id, Load())
        loads[node.id] = replace(
            load,
            memory_mib=load.memory_mib + demand.resources.memory_mib,
            cpu_millis=load.cpu_millis + demand.resources.cpu_millis,
            instances_of={**load.instances_of, demand.app: load.instances_of.get(demand.app, 0) + 1},
        )
    return tuple(placed)


def _choose(demand: Demand, nodes: Collection[Node], loads: Mapping[NodeId, Load]) -> Node | None:
    def has_room(node: Node) -> bool:
        return (
            node.state is NodeState.READY
            and demand.runtime in node.runtimes
            and _free_mib(node, loads) >= demand.resources.memory_mib
            and _free_millis(node, loads) >= demand.resources.cpu_millis
        )

    def rank(node: Node) -> tuple[int, int, str]:
        same_app = loads.get(node.id, Load()).instances_of.get(demand.app, 0)
        return same_app, -_free_mib(node, loads), node.id

    return min(filter(has_room, nodes), key=rank, default=None)


def _could_ever_hold(demand: Demand, node: Node) -> bool:
    """Were it empty, and were it there."""
    return _free_mib(node, {}) >= demand.resources.memory_mib and _free_millis(node, {}) >= demand.resources.cpu_millis


def _free_mib(node: Node, loads: Mapping[NodeId, Load]) -> int:
    return node.memory_mib - loads.get(node.id, Load()).memory_mib


def _free_millis(node: Node, loads: Mapping[NodeId, Load]) -> int:
    return node.cpu_millis * OVERCOMMIT_CPU - loads.get(node.id, Load()).cpu_millis
