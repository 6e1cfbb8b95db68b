"""A whole cloud in one process and in virtual time: API, controllers and links, a real agent, drivers in memory.

The edge is a puppet that speaks the real protocol: it serves what it is told at once, and watches what a visitor
would see. `kill_server` and `kill_agent` cut their tasks off wherever they are; database, sandboxes and the agent's
disk stay.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI
from tests.cloud_model import BROKEN, GOOD
from tests.integration.virtual_time import VirtualTimeLoop

from shellwego.agent.node import Agent, AgentSettings, Drivers
from shellwego.control.api import ApiParts, ApiSettings, create_api
from shellwego.control.controllers.assignments import AssignmentsController
from shellwego.control.controllers.builds import BuildPlaces, BuildsController, concern_builds
from shellwego.control.controllers.deployments import DeploymentsController
from shellwego.control.controllers.outbox import OutboxRelay
from shellwego.control.controllers.routes import RoutesController
from shellwego.control.links.agents import AgentLinks
from shellwego.control.links.edges import EdgeLinks
from shellwego.control.links.listener import ControlListener
from shellwego.control.links.streams import Streams
from shellwego.control.services.cloud import FirstSecrets, ensure_cloud
from shellwego.control.services.passwords import Passwords
from shellwego.control.services.sealing import config_of
from shellwego.control.services.signing import SigningKey
from shellwego.control.store import Store
from shellwego.control.store.engine import sqlite_url
from shellwego.control.store.records import EventRecord
from shellwego.core.ids import CloudId, InstanceId, new_id
from shellwego.drivers.bus.memory import MemoryBus
from shellwego.drivers.images.port import Credentials, ImageConfig, PullProgress, Resolved, StoredImage
from shellwego.drivers.kms.fake import FakeKms
from shellwego.drivers.network.fake import FakeNetwork
from shellwego.drivers.runtime.fake import FakeRuntime
from shellwego.drivers.runtime.port import Workload
from shellwego.kit.supervise import forever
from shellwego.protocol.channel import ChannelClosed, connect
from shellwego.protocol.messages import EdgeHello, EdgeReport, Route, Routes, RoutesChanged


class Images:
    """Every reference exists; what it does is its name."""

    async def resolve(self, reference: str, *, credentials: Credentials | None = None) -> Resolved:
        return Resolved(reference, "sha256:" + "0" * 64, ImageConfig(cmd=("serve",)), 0)

    async def find(self, reference: str) -> StoredImage | None:
        return None

    async def ensure(
        self,
        reference: str,
        *,
        credentials: Credentials | None = None,
        on_progress: Callable[[PullProgress], None] = lambda _: None,
    ) -> StoredImage:
        await asyncio.sleep(0.5)
        behaviour = reference.partition("/")[2].partition(":")[0]
        return StoredImage("sha256:" + "0" * 64, Path("/") / behaviour, ImageConfig(cmd=("serve",)))

    async def import_layout(self, layout: Path, *, name: str | None = None) -> Resolved:
        raise NotImplementedError

    async def export_layout(self, reference: str, directory: Path) -> None:
        raise NotImplementedError

    async def settle(self) -> None: ...

    async def get_ahead(self) -> None:
        return

    async def collect_garbage(self, keep: Collection[str]) -> int:
        return 0


class Runtime(FakeRuntime):
    """Programs that behave as their images say. `on_end` hears of every end."""

    on_end: Callable[[], None] = staticmethod(lambda: None)

    async def ensure_running(self, workload: Workload) -> None:
        await asyncio.sleep(0.2)
        await super().ensure_running(workload)
        if workload.rootfs.name == BROKEN:
            self.crash(workload.id, 3)

    async def ensure_absent(self, id: InstanceId, *, grace_seconds: float) -> None:
        await asyncio.sleep(min(0.1, grace_seconds))
        await super().ensure_absent(id, grace_seconds=grace_seconds)
        self.on_end()

    @property
    def running(self) -> dict[InstanceId, Workload]:
        return {id: sandbox.workload for id, sandbox in self._sandboxes.items() if sandbox.exit is None}

    @property
    def present(self) -> set[InstanceId]:
        return set(self._sandboxes)


class CursedRuntime(Runtime):
    """All runs well until `curse`: then it ends, and ends whenever it is started again."""

    cursed = False

    def curse(self) -> None:
        self.cursed = True
        for id in list(self.running):
            self.crash(id, 1)

    async def ensure_running(self, workload: Workload) -> None:
        await super().ensure_running(workload)
        if self.cursed:
            self.crash(workload.id, 1)


class Network(FakeNetwork):
    """Dialling reaches what the runtime runs at that address, if it listens."""

    runtime: Runtime

    async def dial(self, address: IPv4Address, port: int, *, timeout_seconds: float) -> socket.socket:
        holders = {place: id for id, place in self._attached.items()}
        workload = self.runtime.running.get(holders.get(address, InstanceId("")))
        if workload is None or workload.rootfs.name != GOOD:
            raise ConnectionRefusedError(111, "Connection refused")
        ours, theirs = socket.socketpair()
        theirs.close()
        ours.setblocking(False)
        return ours

    @property
    def attached(self) -> set[InstanceId]:
        return set(self._attached)


class Edge:
    """Takes every generation at once, and calls leaving instances drained a moment later."""

    def __init__(self, path: Path, look: Callable[[], None]) -> None:
        self._path, self._look = path, look
        self.routes: dict[str, Route] = {}

    async def once(self) -> None:
        with contextlib.suppress(OSError, ChannelClosed, TimeoutError):
            channel = await connect(self._path)
            try:
                await channel.send(EdgeHello(edge="edge", version="0"))
                while True:
                    message = await channel.receive()
                    if isinstance(message, Routes | RoutesChanged):
                        kept = {app: route for app, route in self.routes.items() if app not in message.gone}
                        self.routes = {**kept, **{route.app: route for route in message.routes}}
                        self._look()
                        await channel.send(EdgeReport(generation=message.generation))
                        await asyncio.sleep(0.2)
                        drained = [s.instance for route in self.routes.values() for s in route.draining]
                        await channel.send(EdgeReport(generation=message.generation, drained=drained))
            finally:
                await channel.close()

    @property
    def servers(self) -> dict[str, set[str]]:
        """Which instances get requests, by the app's name."""
        return {route.app_name: {s.instance for s in route.servers} for route in self.routes.values()}


class NoBuilder:
    async def build(self, *_: Any, **__: Any) -> Resolved:
        raise NotImplementedError

    async def prepare(self, *_: Any, **__: Any) -> None:
        return

    async def close(self) -> None:
        return


class World:
    """`on_look` is called whenever what visitors see may have changed."""

    _api: FastAPI | None = None
    _signing: SigningKey | None = None

    def __init__(self, loop: VirtualTimeLoop, directory: Path, template: Path) -> None:
        self.loop, self.directory = loop, directory
        shutil.copy(template, directory / "store.db")
        self.kms = FakeKms()
        self.runtime = Runtime(clock=loop.clock)
        self.network = Network()
        self.network.runtime = self.runtime
        self.drivers = Drivers({"gvisor": self.runtime}, self.network, Images(), self.kms)
        self.on_look: Callable[[], None] = lambda: None
        self.runtime.on_end = lambda: self.on_look()
        self.edge = Edge(directory / "c.sock", lambda: self.on_look())
        self.cloud = CloudId(new_id("cloud", secrets.token_bytes))
        self.first: list[FirstSecrets] = []
        self.broken: list[BaseException] = []
        self._tasks: dict[str, asyncio.Task[None]] = {}

    # --- processes --------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        store = Store(sqlite_url(self.directory / "store.db"), clock=self.loop.clock)
        await ensure_cloud(
            store,
            id=self.cloud,
            domain="cloud.test",
            passwords=Passwords(memory_kib=64, rounds=1),
            random_bytes=secrets.token_bytes,
            keep=self.first.append,
        )
        await store.close()
        self._start("edge", lambda: forever("edge", self.edge.once, every_seconds=0.5))
        await self.start_server()
        self.start_agent()
        while not self._links.connected:  # noqa: ASYNC110 - a link sets no event
            await asyncio.sleep(0.1)

    async def stop(self) -> None:
        for name in list(self._tasks):
            await self.kill(name)
        await self.http.aclose()

    def _start(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        async def kept() -> None:
            try:
                await run()
            except asyncio.CancelledError:
                raise
            except BaseException as error:  # Told by `check_alive`, in the step in which it happened.
                self.broken.append(error)

        self._tasks[name] = self.loop.create_task(kept(), name=name)

    async def kill(self, name: str) -> None:
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    def start_agent(self) -> None:
        settings = AgentSettings(directory=self.directory / "agent", control_socket=self.directory / "c.sock", name="n")
        agent = Agent(settings, self.drivers, clock=self.loop.clock)
        self._start("agent", agent.run)

    async def start_server(self) -> None:
        store = Store(sqlite_url(self.directory / "store.db"), clock=self.loop.clock)
        self.store = store
        async with store.writing() as work:
            epoch = await work.cloud.next_epoch()
        wakes = {name: asyncio.Event() for name in ("deployments", "assignments", "routes", "builds", "outbox")}
        bus = MemoryBus()
        streams = Streams(new_stream_id=lambda: secrets.token_urlsafe(18))
        agents = AgentLinks(
            store, streams, cloud=self.cloud, on_connect=lambda node: assignments.forget(node),
            on_heard=lambda instances: routes.heard(instances), monotonic=self.loop.time,
        )  # fmt: skip
        self._links = agents
        edges = EdgeLinks(store, cloud=self.cloud)
        assignments = AssignmentsController(
            store, agents, wakes["assignments"], open_config=lambda release: config_of(self.kms, release)
        )
        deployments = DeploymentsController(store, wakes["deployments"], monotonic=self.loop.time)
        routes = RoutesController(
            store, edges, wakes["routes"], domain="cloud.test", epoch=epoch, monotonic=self.loop.time
        )
        relay = OutboxRelay(store, bus)

        def wake_all(events: Collection[EventRecord]) -> None:
            routes.notice(events)
            deployments.notice(events)
            assignments.notice(events)
            if concern_builds(events):
                wakes["builds"].set()
            wakes["outbox"].set()

        store.on_commit(wake_all)
        if World._signing is None:
            World._signing = SigningKey.ensure(self.directory / "signing.pem", issuer="model")
        settings = ApiSettings(domain="cloud.test", directory=self.directory / "server", version="0.0.test")
        parts = ApiParts(
            store=store, kms=self.kms, bus=bus, agents=agents, signing=World._signing, settings=settings,
            passwords=Passwords(memory_kib=64, rounds=1), clock=self.loop.clock, monotonic=self.loop.time,
        )  # fmt: skip
        if World._api is None:
            World._api = create_api(parts)  # Once for all worlds: it takes longer than many steps.
        World._api.state.parts = parts
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(app=World._api),
            base_url="http://api.test",
            headers={"Authorization": f"Bearer {self.first[0].token}"},
        )
        listener = ControlListener(
            self.directory / "c.sock", on_agent=agents.serve, on_edge=edges.serve, streams=streams
        )

        async def run() -> None:
            try:
                async with asyncio.TaskGroup() as tasks:
                    builds = BuildsController(
                        store, self.kms, images=Images(), builder=NoBuilder(), unpack=_no_unpack,
                        places=BuildPlaces(settings.sources, self.directory / "work", settings.builds), tasks=tasks,
                    )  # fmt: skip
                    for name, once in (
                        ("deployments", deployments.once), ("assignments", assignments.once), ("routes", routes.once),
                        ("builds", builds.once), ("outbox", relay.once),
                    ):  # fmt: skip
                        tasks.create_task(
                            forever(name, once, every_seconds=5.0, wake=wakes[name], limit_seconds=5.0), name=name
                        )
                    tasks.create_task(listener.serve(), name="control socket")
            finally:
                await store.close()

        self._start("server", run)

    # --- what is there ----------------------------------------------------------------------------------------------

    def serving(self) -> Counter[str]:
        """How many instances of each app get requests and can answer them."""
        return Counter(
            {
                name: sum(
                    (run := self.runtime.running.get(InstanceId(id))) is not None and run.rootfs.name == GOOD
                    for id in servers
                )
                for name, servers in self.edge.servers.items()
            }
        )


async def _no_unpack(*_: object) -> None:
    raise NotImplementedError
