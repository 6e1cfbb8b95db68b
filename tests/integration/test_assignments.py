"""From instances to what a node is told to run, and how often it is looked at."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import pytest
from tests.integration.controllers_world import NODE, World, a_world

from shellwego.control.controllers.assignments import AssignmentsController
from shellwego.core.ids import NodeId
from shellwego.core.instances import InstanceState
from shellwego.protocol.messages import Assignment


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with a_world(tmp_path) as made:
        yield made


class Assigned:
    """A connected node that takes whatever it is told."""

    def __init__(self) -> None:
        self.connected = [NODE]
        self.sent: list[Assignment] = []

    def generation_seen(self, _node: NodeId) -> int:
        return self.sent[-1].generation if self.sent else 0

    async def send(self, _node: NodeId, message: Assignment) -> None:
        self.sent.append(message)


async def test_what_a_node_runs_is_looked_at_when_it_changes_and_not_whenever_an_app_crashes(world: World) -> None:
    """A look reads all of a node's instances: a thousand that crash again and again must not earn a thousand looks."""
    agents, wake = Assigned(), asyncio.Event()
    assignments = AssignmentsController(
        world.store,
        agents,  # type: ignore[arg-type]
        wake,
        open_config=lambda _: asyncio.sleep(0, {}),
    )
    world.store.on_commit(assignments.notice)

    async def is_woken_by(step: Awaitable[object]) -> bool:
        wake.clear()
        await step
        before = len(agents.sent)
        await assignments.once()
        assert wake.is_set() or len(agents.sent) == before, "a node would have waited for the next round"
        return wake.is_set()

    await world.deploy("blog")
    assert await is_woken_by(world.rounds())
    [instance] = await world.instances()
    for _ in range(3):
        for state in (InstanceState.STARTING, InstanceState.HEALTHY, InstanceState.BACKOFF):
            assert not await is_woken_by(world.report((instance, state)))
            assert not await is_woken_by(world.rounds())
    await is_woken_by(world.report((instance, InstanceState.HEALTHY)))
    await world.deploy("blog", image="sha256:" + "b" * 64)
    for _ in range(4):
        await is_woken_by(world.settle())
    assert [spec.image for spec in agents.sent[-1].run] == ["sha256:" + "b" * 64]
    assert agents.sent[-1].absent == []
