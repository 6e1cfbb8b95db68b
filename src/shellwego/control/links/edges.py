"""What must the proxies serve, and what have they seen?

One connection per edge. Each gets all routes when it connects, and then what changes; each says which generation is in
force and which leaving instances have seen their last request end. Only that lets an instance be stopped.
"""

from __future__ import annotations

import asyncio

import structlog

from shellwego.control.store.records import EdgeRecord
from shellwego.control.store.unit_of_work import Store
from shellwego.core.errors import ShellWeGoError
from shellwego.core.ids import InstanceId
from shellwego.core.instances import InstanceGoal
from shellwego.core.nodes import HEARTBEAT_SECONDS
from shellwego.kit.faults import fault_point, reach
from shellwego.protocol.channel import Channel
from shellwego.protocol.messages import EdgeHello, EdgeReport, Route, Routes, RoutesChanged, RoutesMissed, Welcome

log = structlog.get_logger()

_DRAINED_WRITTEN = fault_point("server.edges.drained_written")

CHANGES_SINCE_PROTOCOL = 2


class EdgeLinks:
    """The edges that are connected now. `cloud` is told to each: it serves one cloud's routes and no other's."""

    def __init__(self, store: Store, *, cloud: str) -> None:
        self._store, self._cloud = store, cloud
        self._routes: Routes | None = None
        self._links: list[_Link] = []

    @property
    def reports(self) -> dict[str, EdgeReport | None]:
        """What each connected edge said last; None before its first word."""
        return {link.hello.edge: link.report for link in self._links}

    def serve_all(self, generation: int) -> bool:
        """Whether these routes, or later ones, are in force wherever a proxy may be. Without an edge nobody knows."""
        said = [link.report for link in self._links]
        return bool(said) and all(r is not None and r.serving and r.generation >= generation for r in said)

    def publish(self, routes: Routes, changes: RoutesChanged | None = None) -> None:
        """
        Make these the routes of every edge, now and when it connects. `changes` is what makes them of those that were
        published before; without it every edge is sent all.
        """
        self._routes = routes
        for link in self._links:
            link.owe(changes)

    async def serve(self, channel: Channel, hello: EdgeHello) -> None:
        """One edge's conversation, to its end."""
        log.info("edge.connected", edge=hello.edge, version=hello.version)
        await channel.send(Welcome(cloud=self._cloud, heartbeat_seconds=HEARTBEAT_SECONDS))
        link = _Link(hello)
        self._links.append(link)
        if self._routes is not None:
            link.owe(None)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._push(channel, link), name=f"routes to {hello.edge}")
                tasks.create_task(self._listen(channel, link), name=f"reports of {hello.edge}")
        except* Exception as errors:
            raise errors.exceptions[0] from None
        finally:
            self._links.remove(link)
            log.info("edge.disconnected", edge=hello.edge)

    async def _push(self, channel: Channel, link: _Link) -> None:
        while True:
            await link.owes.wait()
            assert self._routes is not None
            await channel.send(link.settle(self._routes))

    async def _listen(self, channel: Channel, link: _Link) -> None:
        edge = link.hello.edge
        while True:
            match await channel.receive():
                case EdgeReport() as report:
                    link.report = report
                    try:
                        await self._write(link.hello, report)
                    except ShellWeGoError as error:
                        # It is said again with the next report; a database that is away is no reason to drop the edge.
                        log.warning("edge.report_not_written", edge=edge, error=str(error))
                case RoutesMissed() as missed:
                    log.info("edge.routes_missed", edge=edge, generation=missed.generation)
                    if self._routes is not None:
                        link.owe(None)
                case message:
                    log.warning("edge.unexpected", edge=edge, message=type(message).__name__)

    async def _write(self, hello: EdgeHello, report: EdgeReport) -> None:
        async with self._store.writing(durable=False) as work:  # The edge will say it again.
            await work.edges.ensure(
                EdgeRecord(
                    id=hello.edge,
                    version=hello.version,
                    generation=report.generation,
                    problems=tuple(report.problems[:20]),
                    last_seen_at=work.now,
                )
            )
            instances = work.for_the_cloud().instances
            for id in report.drained:
                instance = await instances.find(InstanceId(id))
                if instance is None or instance.goal is not InstanceGoal.DRAIN or instance.drained_at is not None:
                    continue
                await instances.update(instance.id, drained_at=work.now)
                await work.emit(
                    "instance.drained",
                    subject=instance.id,
                    organisation=instance.organisation,
                    payload={"app": instance.app, "release": instance.release, "process": instance.process},
                )
        await reach(_DRAINED_WRITTEN)


class _Link:
    """One edge, and what it is owed: however much changes while it is slow, each app once, as it is now."""

    def __init__(self, hello: EdgeHello) -> None:
        self.hello = hello
        self.report: EdgeReport | None = None
        self.owes = asyncio.Event()
        self._sent: int | None = None
        self._routes: dict[str, Route] = {}
        self._gone: dict[str, None] = {}

    def owe(self, changes: RoutesChanged | None) -> None:
        """These changes more; None is all there is."""
        if changes is None or self.hello.protocol < CHANGES_SINCE_PROTOCOL:
            self._sent = None
        else:
            for route in changes.routes:
                self._gone.pop(route.app, None)
                self._routes[route.app] = route
            for app in changes.gone:
                self._routes.pop(app, None)
                self._gone[app] = None
        self.owes.set()

    def settle(self, routes: Routes) -> Routes | RoutesChanged:
        """The message after which nothing is owed any more: `routes`, or what changed since the last one."""
        since, self._sent = self._sent, routes.generation
        changed, self._routes = self._routes, {}
        gone, self._gone = self._gone, {}
        self.owes.clear()
        if since is None:
            return routes
        return RoutesChanged(since=since, generation=routes.generation, routes=list(changed.values()), gone=list(gone))
