"""Do many apps that crash again and again cost those who look on?

Apps that ran well, and from one moment on end as soon as they are started, as when the database of all of them is gone.
Counted is work and not time: starts, events, statements to the server's database, by the second of a virtual clock.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine
from tests.cloud_model import GOOD
from tests.integration.model_world import CursedRuntime, World
from tests.integration.talking_server import TalkingServer
from tests.integration.virtual_time import VirtualTimeLoop
from tests.unit.agent.factories import ins

from shellwego.agent.link import Link
from shellwego.control.store import migrate
from shellwego.control.store.engine import sqlite_url
from shellwego.core.ids import InstanceId
from shellwego.drivers.runtime.port import Workload
from shellwego.protocol.messages import AgentHello, Heartbeat, InstanceReport, NodeCapacity, Report

APPS = int(os.environ.get("SHELLWEGO_STORM_APPS", "30"))
MINUTES = 3
CRASHES_A_MINUTE = 60 / 45
"""With the pause of a crash loop at its shortest."""


class TimedRuntime(CursedRuntime):
    """Remembers when each was started in vain."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.times: dict[InstanceId, list[float]] = {}

    async def ensure_running(self, workload: Workload) -> None:
        await super().ensure_running(workload)
        if self.cursed:
            self.times.setdefault(workload.id, []).append(asyncio.get_running_loop().time())


@pytest.fixture
def statements() -> Iterator[Counter[str]]:
    """How many of each verb, by SQLite's own word, of all databases that are opened here."""
    counts: Counter[str] = Counter()

    def trace(connection: sqlite3.Connection, _record: Any) -> None:
        connection.set_trace_callback(lambda statement: counts.update([statement.split(None, 1)[0]]))

    event.listen(Engine, "connect", trace)
    yield counts
    event.remove(Engine, "connect", trace)


def test_many_apps_that_crash_again_and_again_cost_little(
    tmp_path: Path, statements: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each waits longer and longer, no two for the same time, and the server does no more than note it."""
    template = tmp_path / "template.db"
    asyncio.run(migrate(sqlite_url(template)))
    (tmp_path / "world").mkdir()
    monkeypatch.setattr("tests.integration.model_world.Runtime", TimedRuntime)
    loop = VirtualTimeLoop()
    world = World(loop, tmp_path / "world", template)
    runtime = world.runtime
    assert isinstance(runtime, TimedRuntime)

    async def minutes_of_work() -> Counter[str]:
        statements.clear()
        await asyncio.sleep(MINUTES * 60)
        return Counter(statements)

    async def story() -> tuple[Counter[str], Counter[str]]:
        await world.start()
        for number in range(APPS):
            name = f"app-{number}"
            assert (await world.http.post("/v1/apps", json={"name": name})).is_success
            body = {"image": f"registry.example/{GOOD}:1", "resources": {"memory_mib": 16, "cpu_millis": 10}}
            assert (await world.http.post(f"/v1/apps/{name}/deployments", json=body)).is_success
        while sum(world.serving().values()) < APPS:  # noqa: ASYNC110 - sandboxes set no event
            await asyncio.sleep(1)
        await asyncio.sleep(60)
        quiet = await minutes_of_work()
        runtime.curse()
        await asyncio.sleep(120)
        runtime.times.clear()
        storm = await minutes_of_work()
        items = (await world.http.get("/v1/apps?limit=100")).json()["items"]
        assert {item["status"] for item in items} == {"crashed"}
        await world.stop()
        return quiet, storm

    try:
        quiet, storm = loop.run_until_complete(story())
    finally:
        loop.close()
    assert world.broken == []
    starts = sum(map(len, runtime.times.values()))
    assert APPS * MINUTES * 0.8 <= starts <= APPS * MINUTES * CRASHES_A_MINUTE
    assert all(44 <= later - earlier <= 62 for times in runtime.times.values() for earlier, later in pairwise(times))
    at_once = Counter(int(time) for times in runtime.times.values() for time in times)
    assert max(at_once.values()) < APPS / 2, "they rise and fall together"
    assert storm["INSERT"] == quiet["INSERT"] == 0, "nothing is news, so that no loop is woken"
    for word in ("BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT", "RELEASE"):
        del storm[word]
    assert sum((storm - quiet).values()) <= 12 * starts


def test_a_thousand_instances_that_change_all_the_time_are_told_of_twice_a_second(tmp_path: Path) -> None:
    """A report costs as much as there are instances; told at every change, it would be all that the server does."""
    loop = VirtualTimeLoop()
    crowd = [InstanceReport(id=ins(f"x{number}"), state="backoff") for number in range(1000)]

    async def reports_in_a_minute(instances: list[InstanceReport]) -> int:
        server = TalkingServer(tmp_path / "c.sock")
        await server.start()
        capacity = NodeCapacity(memory_mib=1, cpu_millis=1, disk_free_mib=1, disk_total_mib=1)

        async def ignore(*_: object) -> None:
            return

        link = Link(
            tmp_path / "c.sock",
            hello=lambda: AgentHello(
                node="nod_" + "a" * 20, name="n", version="0", capacity=capacity, runtimes=[], generation=0
            ),
            heartbeat=lambda: Heartbeat(capacity=capacity),
            report=lambda: Report(generation=1, instances=instances),
            on_welcome=ignore,
            on_assignment=ignore,
            serve_stream=ignore,
        )
        async with asyncio.TaskGroup() as tasks:
            keeping = tasks.create_task(link.keep_connected(), name="link")
            end = loop.time() + 60
            while loop.time() < end:
                link.changed()
                await asyncio.sleep(0.01)
            keeping.cancel()
        await server.stop()
        return len(server.reports)

    try:
        assert 60 <= loop.run_until_complete(reports_in_a_minute(crowd)) <= 130
        assert loop.run_until_complete(reports_in_a_minute(crowd[:3])) >= 1000
    finally:
        loop.close()
