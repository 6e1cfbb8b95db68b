"""An instance goes where there is room, and one node's end takes as little of an app as possible."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shellwego.control.orchestration.placement import Demand, Load, plan_placement
from shellwego.core.apps import Resources
from shellwego.core.errors import NoCapacity
from shellwego.core.ids import AppId, NodeId
from shellwego.core.nodes import Node, NodeState

APP = AppId("app_a")


def node(name: str, memory_mib: int = 1024, state: NodeState = NodeState.READY) -> Node:
    return Node(NodeId(name), state, memory_mib, 2000, frozenset({"gvisor"}))


def demand(memory_mib: int = 256) -> Demand:
    return Demand(APP, Resources(memory_mib=memory_mib), "gvisor")


def test_instances_of_one_app_are_spread() -> None:
    assert sorted(plan_placement([demand(), demand()], [node("a"), node("b")], {})) == ["a", "b"]


def test_nothing_goes_to_a_silent_node() -> None:
    placed = plan_placement([demand()], [node("a", state=NodeState.UNREACHABLE)], {})
    assert isinstance(placed[0], NoCapacity)


def test_nothing_goes_where_its_runtime_is_missing() -> None:
    placed = plan_placement([Demand(APP, Resources(), "wasm")], [node("a")], {})
    assert isinstance(placed[0], NoCapacity)


def test_the_refusal_says_what_is_free() -> None:
    placed = plan_placement([demand(900)], [node("a")], {NodeId("a"): Load(memory_mib=600)})
    assert isinstance(placed[0], NoCapacity)
    assert placed[0].largest_free_mib == 424


def test_the_refusal_names_what_is_scarce() -> None:
    """A hundred small apps fill a node's promises of CPU: to ask for less memory would help nobody."""
    placed = plan_placement([demand()], [node("a")], {NodeId("a"): Load(cpu_millis=15_900)})
    assert isinstance(placed[0], NoCapacity)
    assert str(placed[0]).startswith("Needs 0.5 cores on one node; the emptiest has 0.1 free. Ask for less with --cpu")


@given(
    st.lists(st.integers(16, 800), max_size=20),
    st.lists(st.integers(64, 2048), min_size=1, max_size=4),
)
def test_memory_is_never_promised_twice(sizes: list[int], capacities: list[int]) -> None:
    """An overcommitted node lets the kernel choose which customer dies."""
    nodes = [node(str(i), capacity) for i, capacity in enumerate(capacities)]
    placed = plan_placement([demand(size) for size in sizes], nodes, {})
    for one in nodes:
        used = sum(size for size, where in zip(sizes, placed, strict=True) if where == one.id)
        assert used <= one.memory_mib
