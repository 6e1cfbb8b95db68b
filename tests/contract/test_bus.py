"""Every bus: what its port promises."""

from __future__ import annotations

import pytest

from shellwego.core.errors import Unavailable
from shellwego.drivers.bus.memory import MemoryBus
from shellwego.drivers.bus.port import BusMessage


@pytest.fixture
def bus():
    return MemoryBus()


class TestBusContract:
    async def test_a_subscriber_hears_what_it_asked_for_in_order(self, bus):
        async with bus.subscribe("deployment.") as mine, bus.subscribe() as all_of_it:
            for number, kind in enumerate(("deployment.queued", "app.created", "deployment.failed")):
                await bus.publish(BusMessage(kind, "dep_x", seq=number))
            assert [(await mine.next(timeout_seconds=1)).seq for _ in range(2)] == [0, 2]
            assert [(await all_of_it.next(timeout_seconds=1)).seq for _ in range(3)] == [0, 1, 2]

    async def test_waiting_has_an_end(self, bus):
        async with bus.subscribe() as mine:
            assert await mine.next(timeout_seconds=0.01) is None

    async def test_a_slow_subscriber_holds_up_nobody_and_learns_that_it_lost_some(self, bus):
        async with bus.subscribe() as slow:
            for number in range(5000):
                await bus.publish(BusMessage("a", "b", seq=number))
            assert slow.lagged
            assert not slow.lagged
            assert (await slow.next(timeout_seconds=1)).seq == 0

    async def test_health_tells_when_it_is_closed(self, bus):
        await bus.ping()
        await bus.close()
        with pytest.raises(Unavailable):
            await bus.ping()
