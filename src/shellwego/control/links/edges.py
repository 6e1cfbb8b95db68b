"""What must the proxies serve, and what have they seen?

One connection per edge. Each gets all routes, whole, whenever they change; each says which generation is in force and
which leaving instances have seen their last request end. Only that lets an instance be stopped.
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
from shellwego.protocol.messages import EdgeHello, EdgeReport, Routes, Welcome

log = structlog.get_logger()

_DRAINED_WRITTEN = fault_point("server.edges.drained_written")


class EdgeLinks:
    """The edges that are connected now. `cloud` is told to each: it serves one cloud's routes and no other's."""

    def __init__(self, store: Store, *, cloud: str) -> None:
        self._store, self._cloud = store, cloud
        self._routes: Routes | None = None
        self._changed = asyncio.Condition()
        self._reports: dict[str, EdgeReport | None] = {}

    @property
    def reports(self) -> dict[str, EdgeReport | None]:
        """What each connected edge said last; None before its first word."""
        return dict(self._reports)

    async def publish(self, routes: Routes) -> None:
        """Make these the routes of every edge, now and when it connects."""
        async with self._changed:
            self._routes = routes
            self._changed.notify_all()

    async def serve(self, channel: Channel, hello: EdgeHello) -> None:
        """One edge's conversation, to its end."""
        log.info("edge.connected", edge=hello.edge, version=hello.version)
        await channel.send(Welcome(cloud=self._cloud, heartbeat_seconds=HEARTBEAT_SECONDS))
        self._reports[hello.edge] = None
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._push(channel), name=f"routes to {hello.edge}")
                tasks.create_task(self._listen(channel, hello), name=f"reports of {hello.edge}")
        except* Exception as errors:
            raise errors.exceptions[0] from None
        finally:
            self._reports.pop(hello.edge, None)
            log.info("edge.disconnected", edge=hello.edge)

    async def _push(self, channel: Channel) -> None:
        sent: Routes | None = None
        while True:
            async with self._changed:
                while self._routes is None or self._routes is sent:
                    await self._changed.wait()
                sent = self._routes
            await channel.send(sent)

    async def _listen(self, channel: Channel, hello: EdgeHello) -> None:
        while True:
            message = await channel.receive()
            if not isinstance(message, EdgeReport):
                log.warning("edge.unexpected", edge=hello.edge, message=type(message).__name__)
                continue
            self._reports[hello.edge] = message
            try:
                await self._write(hello, message)
            except ShellWeGoError as error:
                # It is said again with the next report; a database that is away is no reason to drop the edge.
                log.warning("edge.report_not_written", edge=hello.edge, error=str(error))

    async def _write(self, hello: EdgeHello, report: EdgeReport) -> None:
        async with self._store.writing() as work:
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
