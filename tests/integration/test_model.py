"""Whatever is asked for in whatever order, and whoever dies meanwhile, the cloud ends up as was asked.

A Hypothesis state machine drives the public API and a small model side by side. What happens in a cloud in between
(controllers, links, a real agent on drivers in memory) runs in virtual time, so that minutes cost milliseconds. Beside
the end state it watches, all the time, what visitors see: never fewer serving instances than promised.

SHELLWEGO_MODEL_EXAMPLES=2000 runs it for long.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.integration.model_world import BROKEN, DEAF, GOOD, World
from tests.integration.virtual_time import VirtualTimeLoop

from shellwego.control.store import migrate
from shellwego.control.store.engine import sqlite_url
from shellwego.core.ids import InstanceId
from shellwego.kit import faults

EXAMPLES = int(os.environ.get("SHELLWEGO_MODEL_EXAMPLES", "8"))
STEPS = 50
NAMES = ("red", "green", "blue")
KEYS = ("A", "B")
HEALTH = {"kind": "tcp", "interval_seconds": 1, "timeout_seconds": 0.5, "start_period_seconds": 2, "retries": 2}
PATIENCE_SECONDS = 2400.0
FAULTS = (
    "agent.start.pulled", "agent.start.addressed", "agent.start.attached", "agent.start.running",
    "agent.start.recorded", "agent.end.ended", "agent.remove.recorded", "agent.remove.ended", "agent.remove.detached",
    "agent.assignment.arrived", "agent.report.sent", "server.deploy.planned", "server.deploy.placed",
    "server.deploy.step_written", "server.deploy.judged", "server.assign.numbered", "server.assign.sent",
    "server.routes.published", "server.outbox.published", "server.agents.report_arrived",
    "server.agents.report_written", "server.edges.drained_written",
)  # fmt: skip


@dataclass(slots=True)
class Wish:
    """A deployment as the model knows it, or (without an id) a change of configuration before the first."""

    id: str | None
    behaviour: str | None = None
    changes: dict[str, str | None] = field(default_factory=dict)
    back_to: str | None = None
    excused: bool = False
    """It may fail for a reason that the model can't foresee: something was made to crash meanwhile."""
    unproven: bool = False
    """It may succeed whatever it is: no instance was wished for at some time meanwhile."""


@dataclass(frozen=True, slots=True)
class Content:
    """What a release is: how its image behaves, and its configuration."""

    behaviour: str
    config: dict[str, str]


@dataclass(slots=True)
class App:
    wishes: list[Wish] = field(default_factory=list)
    replicas: int = 1
    stopped: bool = False
    floor: int = 0
    """So many instances serve whatever happens; settled anew whenever the cloud has come to rest."""

    @property
    def count(self) -> int:
        return 0 if self.stopped else self.replicas

    def lower(self, count: int) -> None:
        self.floor = max(0, min(self.floor, count))

    def note(self) -> None:
        """Something of the model's changed; what is under way now may end otherwise."""
        if self.count == 0:
            for wish in self.wishes:
                wish.unproven = True


class Machine(RuleBasedStateMachine):
    template: Path

    # --- the world --------------------------------------------------------------------------------------------------

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualTimeLoop()
        memory = Path("/dev/shm")
        self.directory = Path(tempfile.mkdtemp(prefix="swg-model-", dir=memory if memory.is_dir() else None))
        self.apps: dict[str, App] = {}
        self.gone: set[str] = set()
        self.violations: list[str] = []
        self.steps: list[str] = []
        self.do(self._begin())

    def do(self, act: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(act)

    async def _begin(self) -> None:
        self.world = World(self.loop, self.directory, self.template)
        self.world.on_look = self.look
        await self.world.start()

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

    async def ask(self, method: str, path: str, body: Any = None, *, refused: tuple[int, ...] = ()) -> Any:
        answer: httpx.Response = await self.world.http.request(method, path, json=body)
        if answer.status_code in refused:
            return None
        assert answer.is_success, f"{method} {path} {body}: {answer.status_code} {answer.text}"
        return answer.json()

    async def deployments(self, name: str) -> dict[str, dict[str, Any]]:
        """By id, oldest first."""
        items = (await self.ask("GET", f"/v1/apps/{name}/deployments?limit=100"))["items"]
        return {item["id"]: item for item in reversed(items)}

    # --- rules: what people do ----------------------------------------------------------------------------------------

    @initialize(count=st.integers(1, 3))
    def a_first_app(self, count: int) -> None:
        self.do(self._create("red"))
        self.do(self._deploy("red", GOOD, {"A": "0"}))
        self.do(self._scale("red", count))
        self.do(self._settle())

    which = st.integers(0, len(NAMES) - 1)
    some_app = precondition(lambda self: bool(self.apps))

    def name_of(self, which: int) -> str:
        names = sorted(self.apps)
        return names[which % len(names)]

    @precondition(lambda self: len(self.apps) < len(NAMES))
    @rule()
    def create(self) -> None:
        self.do(self._create(next(name for name in NAMES if name not in self.apps)))

    async def _create(self, name: str) -> None:
        # A name is free once its app is really gone, which takes its instances' grace.
        for _ in range(200):
            if await self.ask("POST", "/v1/apps", {"name": name}, refused=(409,) if name in self.gone else ()):
                self.apps[name] = App()
                return
            await asyncio.sleep(1)
        raise AssertionError(f"{name} was deleted and its name is still taken")

    @some_app
    @rule(
        which=which,
        behaviour=st.sampled_from([GOOD, GOOD, GOOD, DEAF, BROKEN]),
        config=st.dictionaries(st.sampled_from(KEYS), st.sampled_from(["1", "2"]), max_size=1),
    )
    def deploy(self, which: int, behaviour: str, config: dict[str, str]) -> None:
        self.do(self._deploy(self.name_of(which), behaviour, config))

    async def _deploy(self, name: str, behaviour: str, config: dict[str, str]) -> None:
        body: dict[str, Any] = {
            "image": f"registry.example/{behaviour}:1",
            "resources": {"memory_mib": 16, "cpu_millis": 10},
            "grace_seconds": 2,
            "health": HEALTH,
        }
        if config:
            body["config"] = config
        made = await self.ask("POST", f"/v1/apps/{name}/deployments", body)
        self._wished(name, Wish(made["id"], behaviour, dict(config)))

    @some_app
    @rule(which=which, key=st.sampled_from(KEYS), value=st.sampled_from(["3", "4", None]))
    def configure(self, which: int, key: str, value: str | None) -> None:
        self.do(self._configure(self.name_of(which), {key: value}))

    async def _configure(self, name: str, changes: dict[str, str | None]) -> None:
        known = {wish.id for wish in self.apps[name].wishes}
        await self.ask("PATCH", f"/v1/apps/{name}/config", {"values": changes})
        new = [id for id in await self.deployments(name) if id not in known]
        assert len(new) <= 1
        self._wished(name, Wish(new[0] if new else None, None, changes))

    @some_app
    @rule(which=which)
    def restart(self, which: int) -> None:
        self.do(self._again(self.name_of(which), {}))

    @some_app
    @rule(which=which, label=st.sampled_from(["previous", "v1", "v2", "v3", "v4"]))
    def roll_back(self, which: int, label: str) -> None:
        self.do(self._again(self.name_of(which), {"release": label}))

    async def _again(self, name: str, body: dict[str, Any]) -> None:
        back_to = None
        made = await self.ask("POST", f"/v1/apps/{name}/deployments", body, refused=(409, 422))
        if made is None:
            return
        if body:
            assert body["release"] in {"previous", made["release"]}
            releases = (await self.ask("GET", f"/v1/apps/{name}/releases?limit=100"))["items"]
            back_to = next(release["deployment"] for release in releases if release["label"] == made["release"])
        self._wished(name, Wish(made["id"], None, {}, back_to))

    def _wished(self, name: str, wish: Wish) -> None:
        self.apps[name].wishes.append(wish)
        self.apps[name].note()

    @some_app
    @rule(which=which)
    def cancel(self, which: int) -> None:
        name = self.name_of(which)
        if id := next((wish.id for wish in reversed(self.apps[name].wishes) if wish.id), None):
            self.do(self.ask("POST", f"/v1/apps/{name}/deployments/{id}/cancel", refused=(409,)))

    @some_app
    @rule(which=which, count=st.integers(0, 4))
    def scale(self, which: int, count: int) -> None:
        self.do(self._scale(self.name_of(which), count))

    async def _scale(self, name: str, count: int) -> None:
        app = self.apps[name]
        app.lower(count)
        app.replicas = count
        app.note()
        await self.ask("PATCH", f"/v1/apps/{name}", {"replicas": {"web": count}})

    @some_app
    @rule(which=which, verb=st.sampled_from(["stop", "start", "start"]))
    def stop_or_start(self, which: int, verb: str) -> None:
        name = self.name_of(which)
        app = self.apps[name]
        app.stopped = verb == "stop"
        app.lower(app.count)
        app.note()
        self.do(self.ask("POST", f"/v1/apps/{name}/{verb}"))

    @some_app
    @rule(which=which)
    def delete(self, which: int) -> None:
        name = self.name_of(which)
        del self.apps[name]
        self.gone.add(name)
        self.do(self.ask("DELETE", f"/v1/apps/{name}"))

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

    @rule()
    def settle(self) -> None:
        self.do(self._settle())

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

    async def _settle(self) -> None:
        """Wait until the cloud is as asked; then it must stay so."""
        faults._armed.clear()
        deadline = self.loop.time() + PATIENCE_SECONDS
        while True:
            try:
                await self._check()
                break
            except AssertionError:
                if self.loop.time() > deadline:
                    raise
            await asyncio.sleep(2)
        starts = len(self.world.runtime.starts)
        calm = all(content is None or content.behaviour == GOOD for content in (await self._contents()).values())
        await asyncio.sleep(60)
        await self._check()
        if calm:
            assert len(self.world.runtime.starts) == starts, "it doesn't come to rest"
        serving = self.world.serving()
        for name, app in self.apps.items():
            app.floor = serving[name]

    async def _contents(self) -> dict[str, Content | None]:
        return {name: (await self._outcome(name, app))[0] for name, app in self.apps.items()}

    async def _outcome(self, name: str, app: App) -> tuple[Content | None, str | None]:
        """What the app's current release must be, from the model and from how each deployment ended."""
        ended = await self.deployments(name)
        pending: dict[str, str] = {}
        contents: dict[str, Content] = {}
        current: str | None = None
        before: str | None = None
        assert [wish.id for wish in app.wishes if wish.id] == list(ended), "not the deployments that were asked for"
        for wish in app.wishes:
            if current is None:
                pending = _changed(pending, wish.changes)
            if wish.id is None:
                continue
            state = ended[wish.id]["state"]
            assert state in {"succeeded", "failed", "cancelled", "superseded"}, f"{name}: {wish.id} is {state}"
            overtaken = before is not None and ended[before]["state"] == "superseded"
            base = contents.get(before if overtaken and before else current or "")
            if wish.back_to is not None:
                contents[wish.id] = contents[wish.back_to]
            else:
                config = _changed(base.config if base is not None else pending, wish.changes)
                behaviour = wish.behaviour or (base.behaviour if base is not None else "")
                contents[wish.id] = Content(behaviour, config)
            good = contents[wish.id].behaviour == GOOD
            if state == "succeeded":
                assert good or wish.unproven, f"{name}: {wish} can't have succeeded"
                current = wish.id
            elif state == "failed":
                assert not good or wish.excused, f"{name}: {wish} failed: {ended[wish.id]['reason']}"
            before = wish.id
        return (contents[current] if current else None), (ended[current]["release"] if current else None)

    async def _check(self) -> None:
        world, wanted = self.world, set()
        seen = (await self.ask("GET", "/v1/instances?limit=100"))["items"]
        known = {app["name"] for app in (await self.ask("GET", "/v1/apps"))["items"]}
        assert known == set(self.apps)
        for name, app in self.apps.items():
            content, label = await self._outcome(name, app)
            mine = [instance for instance in seen if instance["app_name"] == name]
            count = app.count if content is not None else 0
            assert len(mine) == count, f"{name} has {len(mine)} instances of {count}"
            wanted |= {instance["id"] for instance in mine}
            assert {i["release"] for i in mine} <= {label}
            served = world.edge.servers.get(name, set())
            if content is None or content.behaviour != GOOD:
                assert served == set()
                continue
            assert [i["state"] for i in mine] == ["healthy"] * count
            assert served == {i["id"] for i in mine}
            for id in served:
                run = world.runtime.running.get(InstanceId(id))
                assert run is not None, f"{id} is served and doesn't run"
                assert run.rootfs.name == content.behaviour
                assert {key: run.env[key] for key in KEYS if key in run.env} == content.config
            config = await self.ask("GET", f"/v1/apps/{name}/config")
            assert config["values"] == content.config
        assert world.runtime.present - wanted == set(), "sandboxes that belong to no instance"
        assert world.network.attached - wanted == set(), "network places that belong to no instance"
        records = {path.stem for path in (self.directory / "agent" / "records").iterdir()}
        assert records - wanted == set(), "records that belong to no instance"
        assert set(world.edge.servers) == set(self.apps)
        [node] = (await self.ask("GET", "/v1/nodes"))["items"]
        assert node["unclaimed"] == []


def _changed(config: dict[str, str], changes: dict[str, str | None]) -> dict[str, str]:
    merged = {**config, **changes}
    return {key: value for key, value in merged.items() if value is not None}


@pytest.mark.timeout(1800 if EXAMPLES > 8 else 600)
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
