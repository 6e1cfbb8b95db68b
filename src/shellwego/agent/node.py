"""What makes an agent?

The parts, put together: state on disk, the loops that keep the node as it should be, and the link to the server. All
run in one task group: when one of them ends unexpectedly the agent ends, and its supervisor starts it again; the
sandboxes don't notice either way.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import structlog

from shellwego import __version__
from shellwego.agent.exec import serve_exec
from shellwego.agent.link import Link
from shellwego.agent.log_reader import read_logs
from shellwego.agent.logs import LogLimits, LogStore
from shellwego.agent.metrics import DataDisk, look_at_data, node_name, read_capacity
from shellwego.agent.plan import Goal, goal_after
from shellwego.agent.reconcilers.images import Images
from shellwego.agent.reconcilers.instances import Instances
from shellwego.agent.reconcilers.networks import Networks
from shellwego.agent.state import AgentState
from shellwego.core.errors import Conflict, ShellWeGoError
from shellwego.core.ids import InstanceId
from shellwego.drivers.images.port import SETTLE_SECONDS, ImageStore
from shellwego.drivers.kms.port import Kms
from shellwego.drivers.network.port import NetworkDriver
from shellwego.drivers.runtime.port import RuntimeDriver
from shellwego.kit.clock import Clock, utc_now
from shellwego.kit.faults import fault_point, reach
from shellwego.kit.supervise import StoppedUnexpectedly, forever
from shellwego.protocol.channel import Channel, ChannelClosed
from shellwego.protocol.messages import AgentHello, Assignment, ExecRequest, Heartbeat, LogsRequest, StreamEnd, Welcome

log = structlog.get_logger()

ALL_ENDED = fault_point("down.runtimes.ended")
ALL_CLEARED = fault_point("down.runtimes.cleared")

RECONCILE_SECONDS = 2.0
NETWORK_SECONDS = 15.0
LOG_SECONDS = 1.0
PRUNE_SECONDS = 60.0
IMAGES_SECONDS = 300.0
_MOST_WARNINGS = 20


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """`directory` is the agent's own (DIR/agent); `control_socket` is where the server listens."""

    directory: Path
    control_socket: Path
    name: str = ""
    log_limits: LogLimits | None = None
    labels: Mapping[str, str] | None = None
    missing_engines: tuple[str, ...] = ()
    """What an operator must know of engines that could not be found, in words."""


@runtime_checkable
class Clearable(Protocol):
    """A runtime that holds something on the node besides its sandboxes, and can let go of it."""

    async def remove_all(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Drivers:
    """What this node has. `runtimes` maps the names that a release may ask for; several may share one driver."""

    runtimes: Mapping[str, RuntimeDriver]
    network: NetworkDriver
    images: ImageStore
    kms: Kms


class Agent:
    """One node's agent. `run` lives until it is cancelled."""

    def __init__(self, settings: AgentSettings, drivers: Drivers, *, clock: Clock = utc_now) -> None:
        self._settings, self._drivers, self._clock = settings, drivers, clock
        self._warned_generation = 0
        self._unkept: Goal | None = None
        self._strays = 0
        self._cloud_changed = ""

    async def run(self) -> None:
        """Raises Conflict when another agent works on this directory."""
        self._state = await AgentState.open(self._settings.directory, self._drivers.kms)
        try:
            async with asyncio.TaskGroup() as tasks:
                self._put_together(tasks)
                log.info("agent.started", node=self._state.node, generation=self._state.goal.generation)
                loops = {
                    "reconcile": self._reconcile(),
                    "networks": forever("networks", self._networks.reconcile_once, every_seconds=NETWORK_SECONDS),
                    "logs": forever("logs", self._rotate_logs, every_seconds=LOG_SECONDS),
                    "log-limits": forever("log-limits", self._prune_logs, every_seconds=PRUNE_SECONDS),
                    "images": forever("images", self._collect_images, every_seconds=IMAGES_SECONDS),
                    "settle": forever("settle", self._drivers.images.settle, every_seconds=SETTLE_SECONDS),
                    "images-ahead": forever(
                        "images-ahead", self._images.get_ahead, every_seconds=IMAGES_SECONDS, wake=self._images.came
                    ),
                    "link": self._link.keep_connected(),
                }
                for name, loop in loops.items():
                    tasks.create_task(_never_ending(name, loop), name=name)
        finally:
            self._state.close()

    def _put_together(self, tasks: asyncio.TaskGroup) -> None:
        settings, drivers, state = self._settings, self._drivers, self._state
        self._logs = LogStore(settings.directory / "logs", settings.log_limits)
        self._images = Images(tasks, drivers.images)
        self._networks = Networks(drivers.network, owned=lambda: self._instances.present)
        self._link = Link(
            settings.control_socket,
            hello=self._hello,
            heartbeat=self._heartbeat,
            report=lambda: self._instances.make_report(),
            on_welcome=self._welcomed,
            on_assignment=self._assigned,
            serve_stream=self._serve_stream,
        )
        self._instances = Instances(
            tasks,
            state,
            runtimes=drivers.runtimes,
            network=drivers.network,
            networks=self._networks,
            images=self._images,
            logs=self._logs,
            on_change=self._link.changed,
            clock=self._clock,
        )

    # What the link tells and asks

    async def _welcomed(self, welcome: Welcome) -> None:
        if self._state.cloud == welcome.cloud:
            return
        if self._state.cloud is not None:
            # The server's data was replaced by another cloud's, or made anew. It can't remove what it doesn't know.
            self._cloud_changed = (
                f"The server now calls this cloud {welcome.cloud}; it was {self._state.cloud}. What ran before goes "
                f"on; look at the unclaimed instances of this node."
            )
            log.warning("agent.other_cloud", was=self._state.cloud, now=welcome.cloud)
        with contextlib.suppress(OSError):  # Said in every heartbeat by `problem` already.
            await self._state.put_cloud(welcome.cloud)

    async def _assigned(self, assignment: Assignment, first: bool) -> None:
        ours = self._state.goal.generation
        if assignment.generation < ours:
            if not first:
                self._strays += 1
                log.warning("agent.stray_assignment", generation=assignment.generation, ours=ours)
                return
            self._warned_generation = max(self._warned_generation, ours)
            log.warning("agent.older_server", generation=assignment.generation, ours=ours)
        await self._accept(goal_after(self._state.goal, assignment))

    async def _accept(self, goal: Goal) -> None:
        if goal == self._state.goal:
            return
        try:
            await self._state.put_goal(goal)
            self._unkept = None
        except (OSError, ShellWeGoError) as error:
            # Nothing new begins for a wish that a kill would lose. Removals do happen, since they are what frees a
            # full disk, and are told again by every server; `_reconcile` tries again to keep the rest.
            log.error("agent.goal_not_kept", generation=goal.generation, error=repr(error))
            self._unkept = goal
            kept = self._state.goal
            self._state.goal = replace(kept, absent=tuple({r.id: r for r in (*kept.absent, *goal.absent)}.values()))
        self._instances.wake.set()
        self._link.changed()

    def _hello(self) -> AgentHello:
        return AgentHello(
            node=self._state.node,
            name=self._settings.name or node_name(),
            version=__version__,
            capacity=read_capacity(look_at_data(self._settings.directory)),
            runtimes=sorted(self._drivers.runtimes),
            generation=self._state.goal.generation,
            labels=dict(self._settings.labels or {}),
        )

    def _heartbeat(self) -> Heartbeat:
        data = look_at_data(self._settings.directory)
        return Heartbeat(
            capacity=read_capacity(data),
            warnings=self._warnings(data)[:_MOST_WARNINGS],
            unfit=self._state.problem or data.fault,
        )

    def _warnings(self, data: DataDisk) -> list[str]:
        """What an operator should know of this node now."""
        words = data.warnings()
        if self._state.problem:
            words.append(f"On this node {self._state.problem}. Running apps go on; new wishes wait.")
        words += self._settings.missing_engines
        words += self._instances.problems
        words += [problem for problem in (self._networks.problem, self._images.problem, self._cloud_changed) if problem]
        words += self._state.damaged
        if self._state.goal.generation < self._warned_generation:
            words.append(
                f"The server's data is older than this node (generation {self._state.goal.generation} after "
                f"{self._warned_generation}): was it restored from a backup? Nothing was removed; look at the "
                f"unclaimed instances."
            )
        if self._strays:
            words.append(f"{self._strays} assignments came late or twice and were ignored.")
        return words

    async def _serve_stream(self, channel: Channel, request: LogsRequest | ExecRequest) -> None:
        if isinstance(request, ExecRequest):
            await serve_exec(channel, request, self._instances.enter)
            return
        async with asyncio.TaskGroup() as group:
            # A reader of a quiet log is only noticed to be gone by listening for it.
            sending = group.create_task(self._send_logs(channel, request), name="logs-send")
            leaving = group.create_task(_until_closed(channel), name="logs-listen")
            await asyncio.wait([sending, leaving], return_when=asyncio.FIRST_COMPLETED)
            sending.cancel()
            leaving.cancel()

    async def _send_logs(self, channel: Channel, request: LogsRequest) -> None:
        with contextlib.suppress(ChannelClosed):
            async with contextlib.aclosing(read_logs(self._logs, request)) as batches:
                async for batch in batches:
                    for line in batch:
                        await channel.send(line)
            await channel.send(StreamEnd())

    # The loops

    async def _reconcile(self) -> None:
        await forever("instances", self._reconcile_once, every_seconds=RECONCILE_SECONDS, wake=self._instances.wake)

    async def _reconcile_once(self) -> None:
        if self._unkept is not None:
            await self._accept(self._unkept)
        await self._state.catch_up()
        await self._instances.reconcile_once()

    async def _rotate_logs(self) -> None:
        if await self._logs.rotate(self._instances.running, self._instances.reopen_log):
            await self._prune_logs()

    async def _prune_logs(self) -> None:
        if self._instances.observed_once:
            await self._logs.prune(frozenset(self._state.records) | {id for _, id in self._instances.running})

    async def _collect_images(self) -> None:
        goal = self._state.goal
        needed = [spec.image for spec in (*goal.run, *goal.retained)]
        if self._unkept is not None or self._state.damaged or self._instances.unclaimed:
            return  # What is needed isn't surely known: a server with another database names what another cloud needs.
        share = look_at_data(self._settings.directory).used_share
        await self._images.collect_garbage(needed, goal.keep_images, disk_used_share=share)


async def stop_everything(
    directory: Path, drivers: Drivers, *, longest_grace_seconds: float = 30.0, wait_seconds: float = 10.0
) -> int:
    """
    End every sandbox of this cloud on this node, side by side, then its network. Each gets the grace its release asks
    for, up to the longest. The goal stays: the next agent starts all of it again. How many were ended.

    Raises Conflict while an agent works on the directory: it would start them again.
    """
    state = await _open_when_free(directory, drivers.kms, wait_seconds)
    try:
        graces = {spec.id: spec.grace_seconds for spec in (*state.goal.run, *state.goal.retained)}
        ended: set[InstanceId] = set()
        runtimes = list({id(driver): driver for driver in drivers.runtimes.values()}.values())
        async with asyncio.TaskGroup() as group:
            for driver in runtimes:
                for sandbox in await driver.observe():
                    grace = min(longest_grace_seconds, graces.get(sandbox.id, 10.0))
                    group.create_task(driver.ensure_absent(sandbox.id, grace_seconds=grace), name=f"stop-{sandbox.id}")
                    ended.add(sandbox.id)
        await reach(ALL_ENDED)
        for driver in runtimes:
            if isinstance(driver, Clearable):
                await driver.remove_all()
        for record in list(state.records.values()):
            if record.run is not None:
                # So that the next start isn't taken for the end of a run that nobody saw.
                state.remember(replace(record, run=None, healthy_since=None, unhealthy=""))
                with contextlib.suppress(OSError):
                    await state.keep(record.id)
        await reach(ALL_CLEARED)
        await drivers.network.ensure_node_absent()
        return len(ended)
    finally:
        state.close()


async def _open_when_free(directory: Path, kms: Kms, wait_seconds: float) -> AgentState:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait_seconds
    while True:
        try:
            return await AgentState.open(directory, kms)
        except Conflict:
            if loop.time() >= deadline:
                raise
            await asyncio.sleep(0.1)


async def _until_closed(channel: Channel) -> None:
    with contextlib.suppress(ChannelClosed):
        while True:
            await channel.receive()


async def _never_ending(name: str, loop: object) -> None:
    await loop  # type: ignore[misc]
    raise StoppedUnexpectedly(name)
