"""Whatever is asked for in whatever order, and whoever dies meanwhile, the cloud ends up as was asked.

The state machine of `cloud_model.py`, and all that may happen meanwhile. What happens in a cloud in between
(controllers, links, a real agent on drivers in memory) runs in virtual time, so that minutes cost milliseconds. Beside
the end state it watches, all the time, what visitors see: never fewer serving instances than promised.

SHELLWEGO_MODEL_EXAMPLES=2000 runs it for long, SHELLWEGO_MODEL_STEPS=300 takes longer walks.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule, run_state_machine_as_test
from tests.cloud_model import GOOD, KEYS, CloudModel, Content
from tests.integration.model_world import World
from tests.integration.virtual_time import VirtualTimeLoop

from shellwego.control.store import migrate
from shellwego.control.store.engine import sqlite_url
from shellwego.core.ids import InstanceId
from shellwego.kit import faults

EXAMPLES = int(os.environ.get("SHELLWEGO_MODEL_EXAMPLES", "8"))
STEPS = int(os.environ.get("SHELLWEGO_MODEL_STEPS", "50"))
HEALTH = {"kind": "tcp", "interval_seconds": 1, "timeout_seconds": 0.5, "start_period_seconds": 2, "retries": 2}
RESOURCES = {"memory_mib": 16, "cpu_millis": 10}
FAULTS = (
    "agent.start.pulled", "agent.start.addressed", "agent.start.attached", "agent.start.running",
    "agent.start.recorded", "agent.end.ended", "agent.remove.recorded", "agent.remove.ended", "agent.remove.detached",
    "agent.assignment.arrived", "agent.report.sent", "server.deploy.planned", "server.deploy.placed",
    "server.deploy.step_written", "server.deploy.judged", "server.assign.numbered", "server.assign.sent",
    "server.routes.published", "server.outbox.published", "server.agents.report_arrived",
    "server.agents.report_written", "server.edges.drained_written",
)  # fmt: skip


class Machine(CloudModel):
    template: Path
    loop: VirtualTimeLoop
    patience_seconds, rest_seconds = 2400.0, 60.0
    health = HEALTH
    resources = RESOURCES

    # --- the world --------------------------------------------------------------------------------------------------

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualTimeLoop()
        memory = Path("/dev/shm")
        self.directory = Path(tempfile.mkdtemp(prefix="swg-model-", dir=memory if memory.is_dir() else None))
        self.violations: list[str] = []
        self.steps: list[str] = []
        self.numbers = itertools.count()
        self.do(self._begin())

    async def _begin(self) -> None:
        self.world = World(self.loop, self.directory, self.template)
        self.world.on_look = self.look
        await self.world.start()

    @property
    def http(self) -> httpx.AsyncClient:  # type: ignore[override]
        return self.world.http

    def image(self, behaviour: str) -> str:
        return f"registry.example/{behaviour}:1"

    def teardown(self) -> None:
        faults._armed.clear()
        try:
            if not self.violations and not self.world.broken:
                self.do(self._settle())
            self.nothing_is_broken()
        finally:
            self.do(self.world.stop())
            self.do(self.loop.shutdown_default_executor())
            self.loop.close()
            shutil.rmtree(self.directory, ignore_errors=True)

    def look(self) -> None:
        """What does a visitor see now? Called at every change of routes and every end of a sandbox."""
        serving = self.world.serving()
        for name, app in self.apps.items():
            if serving[name] < app.floor:
                self.violations.append(f"{name}: {serving[name]} of {app.floor} serve, at {self.loop.time():.1f} s")

    # --- rules: what happens to them ----------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.0, 0.3, 1.0, 3.0, 20.0]))
    def wait(self, seconds: float) -> None:
        self.do(asyncio.sleep(seconds))

    @rule(which=st.integers(0, 20))
    def crash(self, which: int) -> None:
        """A program ends by itself."""
        running = sorted(self.world.runtime.running)
        if not running:
            return
        id = running[which % len(running)]
        for name, servers in self.world.edge.servers.items():
            if id in servers and name in self.apps:
                self.apps[name].lower(self.apps[name].floor - 1)
        for app in self.apps.values():
            for wish in app.wishes:
                wish.excused = True
        self.world.runtime.crash(id, 1)
        self.do(asyncio.sleep(0))

    @rule(seconds=st.sampled_from([0.0, 1.0, 30.0]))
    def kill_server(self, seconds: float) -> None:
        self.do(self._kill_server(seconds))

    async def _kill_server(self, seconds: float) -> None:
        await self.world.kill("server")
        await asyncio.sleep(seconds)
        await self.world.start_server()

    @rule(seconds=st.sampled_from([0.0, 1.0, 30.0]))
    def kill_agent(self, seconds: float) -> None:
        self.do(self._kill_agent(seconds))

    async def _kill_agent(self, seconds: float) -> None:
        await self.world.kill("agent")
        await asyncio.sleep(seconds)
        self.world.start_agent()

    @rule(point=st.sampled_from(FAULTS))
    def fail_once(self, point: str) -> None:
        """The next time, this step fails."""
        once = self.directory / f"{point}-{len(self.steps)}-{self.loop.time()}"
        faults._armed[faults.FaultPoint(point)] = f"fail@{once}"
        for app in self.apps.values():
            for wish in app.wishes:
                wish.excused = True

    # --- what must hold ---------------------------------------------------------------------------------------------

    @invariant()
    def nothing_is_broken(self) -> None:
        assert self.world.broken == []
        assert self.violations == []

    @invariant()
    def at_most_one_deployment_of_an_app_is_under_way(self) -> None:
        self.do(self._at_most_one())

    async def _at_most_one(self) -> None:
        async with self.world.store.reading() as work:
            under_way = [d.app for d in await work.for_the_cloud().deployments.unfinished()]
        assert len(under_way) == len(set(under_way))

    @invariant()
    def what_is_kept_is_what_is(self) -> None:
        """Whoever wrote last (API, controllers, reports of the agent), no answer is older."""
        self.do(self._kept_is_fresh())

    async def _kept_is_fresh(self) -> None:
        store = self.world.store
        for _ in range(20):  # The cloud goes on between two requests; they count when it didn't.
            before = await store.version()
            kept = [await self.ask("GET", "/v1/apps") for _ in range(2)][-1]
            anew = await self.ask("GET", f"/v1/apps?fresh={next(self.numbers)}")
            if await store.version() == before:
                assert kept == anew
                return

    # --- the cloud's side ---------------------------------------------------------------------------------------------

    def before_settling(self) -> None:
        faults._armed.clear()

    def settled(self) -> None:
        serving = self.world.serving()
        for name, app in self.apps.items():
            app.floor = serving[name]

    async def starts(self) -> int:
        return len(self.world.runtime.starts)

    async def check_app(self, name: str, content: Content | None, instances: list[dict[str, Any]]) -> None:
        served = self.world.edge.servers.get(name, set())
        if content is None or content.behaviour != GOOD:
            assert served == set()
            return
        assert served == {i["id"] for i in instances}
        for id in served:
            run = self.world.runtime.running.get(InstanceId(id))
            assert run is not None, f"{id} is served and doesn't run"
            assert run.rootfs.name == content.behaviour
            assert {key: run.env[key] for key in KEYS if key in run.env} == content.config

    async def check_rest(self, wanted: set[str]) -> None:
        assert self.world.runtime.present - wanted == set(), "sandboxes that belong to no instance"
        assert self.world.network.attached - wanted == set(), "network places that belong to no instance"
        records = {path.stem for path in (self.directory / "agent" / "records").iterdir()}
        assert records - wanted == set(), "records that belong to no instance"
        assert set(self.world.edge.servers) == set(self.apps)


@pytest.mark.timeout(600 * max(1, EXAMPLES * STEPS // 400))
def test_the_cloud_does_as_its_model(tmp_path: Path) -> None:
    template = tmp_path / "template.db"
    asyncio.run(migrate(sqlite_url(template)))
    Machine.template = template
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
            phases=(Phase.generate,) if os.environ.get("SHELLWEGO_MODEL_NO_SHRINK") else tuple(Phase),
        ),
    )
