"""An instance goes where there is room, and one node's end takes as little of an app as possible."""

from __future__ import annotations

import pytest
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


@pytest.mark.parametrize("state", [NodeState.UNREACHABLE, NodeState.UNHEALTHY])
def test_nothing_goes_to_a_node_that_is_silent_or_ill_while_another_is_well(state: NodeState) -> None:
    assert plan_placement([demand()], [node("a", 8192, state), node("b")], {}) == ("b",)
    placed = plan_placement([demand()], [node("a", state=state)], {})
    assert isinstance(placed[0], NoCapacity)
    assert str(placed[0]).startswith("No node can take an instance now"), "asking for less would help nobody"


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


@pytest.mark.parametrize(
    ("nodes", "needed_mib", "never"),
    [
        pytest.param([node("a")], 900, False, id="full now"),
        pytest.param([node("a")], 1100, True, id="larger than the only node"),
        pytest.param(
            [node("a"), node("b", 2048, state=NodeState.UNREACHABLE)], 1100, False, id="the large one is away"
        ),
        pytest.param([node("a"), node("b", 0)], 1100, False, id="one hasn't said yet what it has"),
        pytest.param([], 100, False, id="no node yet"),
    ],
)
def test_waiting_is_for_what_may_come_true(nodes: list[Node], needed_mib: int, never: bool) -> None:
    """Ten minutes of waiting for 100 GiB on a machine of 20 would teach nobody anything."""
    loads = {n.id: Load(memory_mib=n.memory_mib // 2) for n in nodes}
    [placed] = plan_placement([demand(needed_mib)], nodes, loads)
    assert isinstance(placed, NoCapacity)
    assert placed.never is never
    assert (f"the largest has {max((n.memory_mib for n in nodes), default=0)} MiB" in str(placed)) is never


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
