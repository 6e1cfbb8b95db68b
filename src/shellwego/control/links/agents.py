"""What do the nodes say, and how do we reach them?

One connection per agent. What arrives (hello, heartbeats, reports) is written down here and nowhere else: an agent is
the only writer of what its instances do. What leaves (assignments, requests for streams) goes through `send` and
`open_stream`. Nothing is decided here; the controllers are woken by the events that a report leaves behind.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Collection
from typing import Any

import structlog

from shellwego.control.links.reports import Told
from shellwego.control.links.streams import Streams
from shellwego.control.store.records import InstanceRecord, NodeRecord
from shellwego.control.store.unit_of_work import Store, UnitOfWork
from shellwego.core.errors import DiskFull, NodeUnavailable, ShellWeGoError, Unavailable
from shellwego.core.ids import InstanceId, NodeId, is_id
from shellwego.core.instances import ExitReason, InstanceGoal, InstanceState
from shellwego.core.last_lines import cut_last_lines
from shellwego.core.nodes import HEARTBEAT_SECONDS
from shellwego.kit.faults import fault_point, reach
from shellwego.protocol.channel import Channel, ChannelClosed
from shellwego.protocol.messages import (
    AgentHello,
    Assignment,
    ExecRequest,
    Heartbeat,
    InstanceReport,
    LogsRequest,
    NodeCapacity,
    Refused,
    Report,
    Welcome,
)

log = structlog.get_logger()

_REPORT_ARRIVED = fault_point("server.agents.report_arrived")
_REPORT_WRITTEN = fault_point("server.agents.report_written")


class AgentLinks:
    """
    The agents that are connected now. `on_connect` wakes whoever sends assignments; `on_heard` is told of instances
    whose state is known from now on.
    """

    def __init__(
        self,
        store: Store,
        streams: Streams,
        *,
        cloud: str,
        on_connect: Callable[[NodeId], None],
        on_heard: Callable[[Collection[InstanceId]], None] = lambda _: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._streams, self._cloud = store, streams, cloud
        self._on_connect, self._on_heard, self._monotonic = on_connect, on_heard, monotonic
        self._links: dict[NodeId, Channel] = {}
        self._seen: dict[NodeId, int] = {}

    @property
    def connected(self) -> frozenset[NodeId]:
        return frozenset(self._links)

    def generation_seen(self, node: NodeId) -> int:
        """The highest generation the node has told of since it connected."""
        return self._seen.get(node, 0)

    async def serve(self, channel: Channel, hello: AgentHello) -> None:
        """One agent's conversation, to its end."""
        if not is_id(hello.node, "node"):
            await channel.send(Refused(code="node", problem=f"{hello.node[:60]!r} is not a node's id."))
            return
        node = NodeId(hello.node)
        await self._register(node, hello)
        await channel.send(Welcome(cloud=self._cloud, heartbeat_seconds=HEARTBEAT_SECONDS))
        before = self._links.get(node)
        self._links[node], self._seen[node] = channel, hello.generation
        if before is not None:
            # A killed agent comes back before its old connection is noticed to be dead. The newest speaks for the node.
            await before.close()
        log.info("agent.connected", node=node, version=hello.version, generation=hello.generation)
        self._on_connect(node)
        told = Told()
        try:
            while True:
                message = await channel.receive()
                match message:
                    case Heartbeat():
                        await self._heard(node, message)
                    case Report():
                        await reach(_REPORT_ARRIVED)
                        self._seen[node] = max(self._seen.get(node, 0), message.generation)
                        try:
                            await self._write(node, message, told)
                        except (Unavailable, DiskFull) as error:
                            # A report is whole and comes again; nothing is lost by waiting for the next.
                            log.warning("agent.report_not_written", node=node, error=str(error))
                        await reach(_REPORT_WRITTEN)
                    case _:
                        log.warning("agent.unexpected", node=node, message=type(message).__name__)
        finally:
            if self._links.get(node) is channel:
                del self._links[node]
                log.info("agent.disconnected", node=node)

    async def send(self, node: NodeId, assignment: Assignment) -> None:
        """Raises NodeUnavailable."""
        try:
            await self._link(node).send(assignment)
        except ChannelClosed as error:
            raise NodeUnavailable(node) from error

    async def open_stream(self, node: NodeId, request: LogsRequest | ExecRequest) -> Channel:
        """A channel of its own for logs or exec. Raises NodeUnavailable."""
        try:
            return await self._streams.open(node, self._link(node), request)
        except ChannelClosed as error:
            raise NodeUnavailable(node) from error

    def _link(self, node: NodeId) -> Channel:
        link = self._links.get(node)
        if link is None:
            raise NodeUnavailable(node)
        return link

    async def _register(self, node: NodeId, hello: AgentHello) -> None:
        """Raises Unavailable and DiskFull, but not where a node that is known merely can't be written down."""
        try:
            async with self._store.writing() as work:
                await work.nodes.ensure(_node(node, hello, work.now))
                await work.emit("node.connected", subject=node, payload={"version": hello.version})
        except (DiskFull, Unavailable) as error:
            # What runs there can be looked at, logged in to and stopped all the same.
            async with self._store.reading() as work:
                if await work.nodes.find(node) is None:
                    raise
            log.warning("agent.hello_not_written", node=node, error=str(error))

    async def _heard(self, node: NodeId, heartbeat: Heartbeat) -> None:
        try:
            async with self._store.writing(durable=False) as work:
                seen = {"last_seen_at": work.now, "warnings": tuple(heartbeat.warnings[:20])}
                before = await work.nodes.get(node)
                await work.nodes.update(node, unfit=heartbeat.unfit[:500], **seen, **_capacity(heartbeat.capacity))
                if bool(before.unfit) != bool(heartbeat.unfit):
                    await work.emit("node.unfit" if heartbeat.unfit else "node.fit", subject=node)
        except ShellWeGoError as error:
            # The next heartbeat comes in seconds, and a database that is away is no reason to drop the agent.
            log.warning("agent.heartbeat_not_written", node=node, error=str(error))

    async def _write(self, node: NodeId, report: Report, told: Told) -> None:
        now = self._monotonic()
        news = told.news(report, now)
        async with self._store.writing(durable=False) as work:  # The agent will say it again.
            instances = work.for_the_cloud().instances
            changes: dict[str, Any] = {"last_seen_at": work.now}
            if news is None:
                known = await instances.on_node(node)
                changes["unclaimed"] = tuple(sorted(set(report.unclaimed) - {i.id for i in known}))
                if changes["unclaimed"] != (await work.nodes.get(node)).unclaimed:
                    payload = {"instances": list(changes["unclaimed"])}
                    await work.emit("node.unclaimed", subject=node, payload=payload)
            else:
                known = await instances.some_on_node(node, [InstanceId(seen.id) for seen in news])
            heard = await _observe_all(work, known, report.instances if news is None else news, report.generation)
            await work.nodes.update(node, **changes)
        told.is_written(report, now, whole=news is None)
        self._on_heard(heard)


async def _observe_all(
    work: UnitOfWork, known: Collection[InstanceRecord], reports: Collection[InstanceReport], generation: int
) -> list[InstanceId]:
    """Write what was seen of those that we know. The ids of those of which it counts."""
    by_id = {instance.id: instance for instance in known}
    heard = []
    for seen in reports:
        instance = by_id.get(InstanceId(seen.id))
        if instance is not None and generation >= instance.generation:
            await _observe(work, instance, seen, generation)
            heard.append(instance.id)
    return heard


async def _observe(work: UnitOfWork, before: InstanceRecord, seen: InstanceReport, generation: int) -> None:
    """Write one instance's report; an event only when its state changed."""
    state = InstanceState(seen.state)
    if state is InstanceState.PENDING and before.state not in {InstanceState.PENDING, InstanceState.LOST}:
        # We know it from a database that is older than the node, or the node lost its disk: it begins anew, and nothing
        # that was known of it holds.
        state = InstanceState.STARTING
    changes: dict[str, Any] = {
        "reason": seen.reason[:1000],
        "restarts": seen.restarts,
        "exit_reason": ExitReason(seen.exit_reason) if seen.exit_reason else None,
        "exit_code": seen.exit_code,
        "generation": generation,
    }
    if seen.address is not None:
        changes |= {"address": seen.address, "port": seen.port}
    if seen.started_at is not None:
        changes["started_at"] = dt.datetime.fromtimestamp(seen.started_at, dt.UTC)
    if seen.last_lines:
        changes["last_lines"] = cut_last_lines(seen.last_lines)
    if state is InstanceState.STOPPED:
        if before.goal is not InstanceGoal.STOP:
            # Not ours to believe: an instance that should run is never gone for good because its agent says so.
            return
        changes["removed_at"] = work.now
    if before.state is state and all(getattr(before, name) == value for name, value in changes.items()):
        return
    after = await work.for_the_cloud().instances.observe(before, state, observed_at=work.now, **changes)
    if after is not None and (before.state is not state or before.address != after.address):
        await work.emit(
            f"instance.{state.value}",
            subject=before.id,
            organisation=before.organisation,
            payload={
                "app": before.app,
                "release": before.release,
                "process": before.process,
                "reason": after.reason,
                "deployment": before.deployment,
            },
        )


def _node(node: NodeId, hello: AgentHello, now: dt.datetime) -> NodeRecord:
    return NodeRecord(
        id=node,
        name=hello.name[:63],
        created_at=now,
        version=hello.version[:40],
        runtimes=tuple(hello.runtimes),
        last_seen_at=now,
        **_capacity(hello.capacity),
    )


def _capacity(capacity: NodeCapacity) -> dict[str, Any]:
    return {
        "memory_mib": capacity.memory_mib,
        "cpu_millis": capacity.cpu_millis,
        "disk_free_mib": capacity.disk_free_mib,
        "disk_total_mib": capacity.disk_total_mib,
    }
