"""
The part of the server that tells edges of routes, as it runs in a cloud: its database with that many apps, its routes
controller, its links. A change is an instance that becomes healthy, from the beginning of the transaction that says so.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from shellwego.control.controllers.routes import RoutesController
from shellwego.control.links.edges import EdgeLinks
from shellwego.control.links.listener import ControlListener
from shellwego.control.links.streams import Streams
from shellwego.control.store import Store, migrate
from shellwego.control.store.engine import sqlite_url
from shellwego.control.store.records import AppRecord, InstanceRecord, OrganisationRecord, ReleaseRecord, ReleaseSpec
from shellwego.control.store.unit_of_work import UnitOfWork
from shellwego.core.ids import AppId, InstanceId, OrganisationId, ReleaseId, new_id
from shellwego.core.instances import InstanceState
from shellwego.kit.supervise import forever
from shellwego.protocol.channel import Channel
from shellwego.protocol.messages import AgentHello

ROUND_SECONDS = 10.0


class RoutesServer:
    """Its apps are called like the first label of their host, and each has one healthy instance."""

    def __init__(self, store: Store, edges: EdgeLinks, controller: RoutesController, backend_port: int) -> None:
        self._store, self._edges, self._controller, self._port = store, edges, controller, backend_port
        self._organisation = OrganisationId(new_id("organisation", secrets.token_bytes))
        self._starting: dict[str, InstanceId] = {}
        self._asked: set[asyncio.Task[None]] = set()

    async def begin(self, hosts: Sequence[str]) -> None:
        """Apps that have been there for long."""
        async with self._store.writing() as work:
            await work.organisations.add(OrganisationRecord(self._organisation, "bench", work.now))
            instances = [await self._add(work, host) for host in hosts]
        self._controller.heard(instances)

    async def add_starting(self, host: str) -> None:
        """One more app, whose instance can't serve yet."""
        async with self._store.writing() as work:
            self._starting[host] = await self._add(work, host, InstanceState.STARTING)

    def call_healthy(self, host: str) -> None:
        """Write what its node would report, in a transaction that begins now."""
        task = asyncio.create_task(self._call_healthy(self._starting.pop(host)))
        self._asked.add(task)
        task.add_done_callback(self._asked.discard)

    @property
    def generation(self) -> int:
        """That of which every connected edge has said that it is in force; 0 if there is none."""
        reports = list(self._edges.reports.values())
        return min((report.generation if report is not None else 0 for report in reports), default=0)

    async def _call_healthy(self, instance: InstanceId) -> None:
        async with self._store.writing(durable=False) as work:  # As a report of a node is written.
            instances = work.for_the_cloud().instances
            seen = await instances.observe(
                await instances.get(instance),
                InstanceState.HEALTHY,
                address="127.0.0.1",
                port=self._port,
                observed_at=work.now,
            )
            assert seen is not None
            await work.emit(
                "instance.healthy", subject=instance, organisation=seen.organisation, payload={"app": seen.app}
            )

    async def _add(self, work: UnitOfWork, host: str, state: InstanceState = InstanceState.HEALTHY) -> InstanceId:
        tenant = work.for_organisation(self._organisation)
        app, name = AppId(work.new_id("app")), host.split(".", 1)[0]
        release, instance = ReleaseId(work.new_id("release")), InstanceId(work.new_id("instance"))
        await tenant.apps.add(AppRecord(app, self._organisation, name, work.now, work.now, current_release=release))
        await tenant.releases.add(
            ReleaseRecord(release, self._organisation, app, 1, "sha256:" + "0" * 64, ReleaseSpec(), b"", work.now)
        )
        await tenant.instances.add(
            InstanceRecord(
                instance,
                self._organisation,
                app,
                release,
                "web",
                work.now,
                state=state,
                address="127.0.0.1",
                port=self._port,
            )
        )
        await work.emit(
            f"instance.{state.value}", subject=instance, organisation=self._organisation, payload={"app": app}
        )
        return instance


@asynccontextmanager
async def a_routes_server(
    directory: Path, control_socket: Path, domain: str, backend_port: int, hosts: Sequence[str]
) -> AsyncIterator[RoutesServer]:
    """Serves edges on that socket for the block."""
    url = sqlite_url(directory / "store.db")
    await migrate(url)
    store, wake = Store(url), asyncio.Event()
    edges = EdgeLinks(store, cloud="cld_" + "a" * 20)
    controller = RoutesController(store, edges, wake, domain=domain, epoch=1)
    server = RoutesServer(store, edges, controller, backend_port)
    await server.begin(hosts)
    store.on_commit(controller.notice)
    listener = ControlListener(
        control_socket,
        on_agent=_no_agents,
        on_edge=edges.serve,
        streams=Streams(new_stream_id=lambda: secrets.token_urlsafe(18)),
    )

    async def serve() -> None:
        async with asyncio.TaskGroup() as tasks:
            routes = forever("routes", controller.once, every_seconds=ROUND_SECONDS, wake=wake, limit_seconds=5.0)
            tasks.create_task(routes, name="routes")
            tasks.create_task(listener.serve(), name="control socket")

    serving = asyncio.create_task(serve(), name="routes server")
    try:
        yield server
    finally:
        serving.cancel()
        await asyncio.wait({serving})
        await store.close()


async def _no_agents(_channel: Channel, _hello: AgentHello) -> None:
    raise NotImplementedError
