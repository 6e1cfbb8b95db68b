"""What do tests of the controllers stand on?

A store with its services and the deployments controller; node and edge are puppets.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import time
from collections.abc import AsyncIterator
from pathlib import Path

from shellwego.control.controllers.deployments import DeploymentsController
from shellwego.control.controllers.routes import RoutesController
from shellwego.control.links.agents import AgentLinks
from shellwego.control.links.edges import EdgeLinks
from shellwego.control.links.reports import Told
from shellwego.control.links.streams import Streams
from shellwego.control.services import apps, deployments
from shellwego.control.services.callers import Caller
from shellwego.control.services.shapes import Found
from shellwego.control.store import Store, migrate
from shellwego.control.store.engine import sqlite_url
from shellwego.control.store.records import (
    DeploymentRecord,
    InstanceRecord,
    NodeRecord,
    OrganisationRecord,
)
from shellwego.core.deployments import DeploymentState
from shellwego.core.ids import NodeId, OrganisationId, UserId
from shellwego.core.instances import InstanceGoal, InstanceState
from shellwego.drivers.kms.fake import FakeKms
from shellwego.kit.clock import utc_now
from shellwego.protocol import public
from shellwego.protocol.messages import (
    Heartbeat,
    InstanceReport,
    NodeCapacity,
    Report,
    Routes,
    RoutesChanged,
)

NODE = NodeId("nod_aaaaaaaaaaaaaaaaaaaa")
ORGANISATION = OrganisationId("org_aaaaaaaaaaaaaaaaaaaa")
CALLER = Caller(UserId("usr_aaaaaaaaaaaaaaaaaaaa"), "a@b.example", ORGANISATION, "default", operator=True)
IMAGE = "sha256:" + "a" * 64


class World:
    """A control plane without API, agents or edges; the test plays those. It begins with one node and an app `blog`."""

    def __init__(self, store: Store, ahead: list[dt.timedelta]) -> None:
        self.store, self.kms, self._ahead, self._passed = store, FakeKms(), ahead, 0.0
        self.controller = self.controller_of_a_new_server()
        self.links = AgentLinks(store, Streams(new_stream_id=lambda: "s"), cloud="c", on_connect=lambda _: None)
        self.generation = 0

    async def deploy(self, app: str, image: str = IMAGE, **body: object) -> DeploymentRecord:
        """As the API and the builds controller would."""
        async with self.store.writing() as work:
            wish = public.DeploymentCreate(image="registry.example/x:1", **body)  # type: ignore[arg-type]
            deployment = await deployments.create(work, self.kms, CALLER, app, wish)
        async with self.store.writing() as work:
            await deployments.begin(work, deployment, DeploymentState.RESOLVING)
        async with self.store.writing() as work:
            await deployments.start_release(work, self.kms, deployment, image, Found())
        return deployment

    async def rounds(self, count: int = 1) -> None:
        for _ in range(count):
            await self.controller.once()

    async def instances(self) -> list[InstanceRecord]:
        async with self.store.reading() as work:
            return await work.for_the_cloud().instances.living()

    async def report(self, *states: tuple[InstanceRecord, InstanceState], **facts: object) -> None:
        """The node says so, under a new generation."""
        self.generation += 1
        await self.report_again(NODE, Told(), *states, **facts)

    async def report_again(
        self, node: NodeId, told: Told, *states: tuple[InstanceRecord, InstanceState], **facts: object
    ) -> None:
        """A node says so, under the same generation, to a server that was told that much before."""
        seen = [
            InstanceReport(id=i.id, state=state.value, address="100.96.0.2", port=8080, **facts)  # type: ignore[arg-type]
            for i, state in states
        ]
        await self.links._write(node, Report(generation=self.generation, instances=seen), told)

    def controller_of_a_new_server(self) -> DeploymentsController:
        controller = DeploymentsController(self.store, asyncio.Event(), monotonic=self.monotonic)
        self.store.on_commit(controller.notice)
        return controller

    def routes(self, edges: EdgeLinks) -> RoutesController:
        wake = asyncio.Event()
        return RoutesController(self.store, edges, wake, domain="example.org", epoch=2, monotonic=self.monotonic)

    def monotonic(self) -> float:
        return time.monotonic() + self._passed

    async def heartbeat(self, unfit: str = "") -> None:
        capacity = NodeCapacity(memory_mib=2048, cpu_millis=2000)
        await self.links._heard(NODE, Heartbeat(capacity=capacity, unfit=unfit))

    def forward(self, **amount: float) -> None:
        """Time passes."""
        self.set_clock(**amount)
        self._passed += dt.timedelta(**amount).total_seconds()

    def set_clock(self, **amount: float) -> None:
        """Somebody sets the clock."""
        self._ahead[0] += dt.timedelta(**amount)

    async def deployment(self, id: str) -> DeploymentRecord:
        async with self.store.reading() as work:
            return await work.for_the_cloud().deployments.get(id)

    async def settle(self) -> None:
        """A node and an edge that do as they are told, until nothing moves."""
        for _ in range(20):
            await self.rounds()
            living = await self.instances()
            moves = [
                (i, InstanceState.STOPPED if i.goal is InstanceGoal.STOP else InstanceState.HEALTHY) for i in living
            ]
            await self.report(*moves)
            async with self.store.writing() as work:
                for i in living:
                    if i.goal is InstanceGoal.DRAIN and i.drained_at is None:
                        await work.for_the_cloud().instances.update(i.id, drained_at=work.now)
                        await work.emit("instance.drained", subject=i.id, payload={"app": i.app})


class Published(EdgeLinks):
    """What edges are told. One that hears of changes only always has the same as one that is told all now."""

    def publish(self, routes: Routes, changes: RoutesChanged | None = None) -> None:
        self.changes = changes
        if changes is None:
            self.table = {route.app: route for route in routes.routes}
        else:
            assert changes.since == self.last.generation
            self.table |= {route.app: route for route in changes.routes}
            self.table = {app: route for app, route in self.table.items() if app not in changes.gone}
        self.last = routes
        assert self.table == {route.app: route for route in routes.routes}

    @property
    def servers(self) -> dict[str, list[str]]:
        return {route.app_name: [server.instance for server in route.servers] for route in self.last.routes}


@contextlib.asynccontextmanager
async def a_world(tmp_path: Path) -> AsyncIterator[World]:
    url = sqlite_url(tmp_path / "store.db")
    await migrate(url)
    ahead = [dt.timedelta()]
    store = Store(url, clock=lambda: utc_now() + ahead[0])
    async with store.writing() as work:
        await work.organisations.add(OrganisationRecord(ORGANISATION, "default", work.now))
        node = NodeRecord(
            NODE, "n", work.now, runtimes=("gvisor",), memory_mib=2048, cpu_millis=2000,
            last_seen_at=work.now + dt.timedelta(days=1),
        )  # fmt: skip
        await work.nodes.ensure(node)
        await apps.create_app(work, CALLER, "blog")
    yield World(store, ahead)
    await store.close()
