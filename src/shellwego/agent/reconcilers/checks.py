"""Which instances are checked, and what follows from what a check says?

Exactly what runs, and isn't being ended, is checked (`health.py` asks). A verdict goes into the instance's record and
wakes the loop of `instances.py`, which concludes from it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address

import structlog

from shellwego.agent.health import Dial, HealthMonitor, Target
from shellwego.agent.last_lines import LastLines
from shellwego.agent.plan import Record
from shellwego.agent.report import printable
from shellwego.agent.state import AgentState
from shellwego.core.ids import InstanceId
from shellwego.core.redaction import Redaction
from shellwego.drivers.runtime.port import ExecSession, RuntimeDriver
from shellwego.kit.clock import Clock

log = structlog.get_logger()


class Checks:
    """The health checks of one node's instances."""

    def __init__(
        self,
        tasks: asyncio.TaskGroup,
        state: AgentState,
        *,
        dial: Dial,
        runtime_of: Callable[[InstanceId], RuntimeDriver],
        is_busy: Callable[[InstanceId], bool],
        lines: LastLines,
        wake: asyncio.Event,
        on_change: Callable[[], None],
        clock: Clock,
    ) -> None:
        """`runtime_of` finds an instance's driver, or raises NotFound; `is_busy` says that an action works on one."""
        self._tasks, self._state = tasks, state
        self._runtime_of, self._is_busy, self._lines = runtime_of, is_busy, lines
        self._wake, self._on_change, self._clock = wake, on_change, clock
        self._monitor = HealthMonitor(
            tasks, dial=dial, enter=self._enter, on_verdict=self._on_verdict, on_doubt=wake.set
        )

    def follow(self) -> None:
        """Begin and end checks, so that exactly what runs, and isn't being ended, is checked."""
        for id in self._monitor.watched:
            record = self._state.records.get(id)
            if record is None or record.run is None or record.removing is not None or self._state.find_spec(id) is None:
                self._monitor.forget(id)
        for spec in (*self._state.goal.run, *self._state.goal.retained):
            record = self._state.records.get(InstanceId(spec.id))
            if record is None or record.run is None or record.unhealthy or record.removing is not None:
                continue
            if record.address is None or self._is_busy(record.id) or self._monitor.watches(record.id, record.run):
                continue
            self._monitor.watch(
                Target(
                    record.id,
                    record.run,
                    spec.health,
                    IPv4Address(record.address),
                    spec.port,
                    healthy=record.healthy_since is not None,
                    redact=Redaction.of_config(spec.env),
                )
            )

    def forget(self, id: InstanceId) -> None:
        """Stop checking. Safe to repeat."""
        self._monitor.forget(id)

    def last_word(self, id: InstanceId) -> str:
        return self._monitor.last_word(id)

    async def _enter(self, id: InstanceId, command: tuple[str, ...]) -> ExecSession:
        return await self._runtime_of(id).exec(id, command, tty=False, env={})

    def _on_verdict(self, target: Target, healthy: bool, problem: str) -> None:
        log.info("instance.healthy" if healthy else "instance.unhealthy", instance=target.id, problem=problem)
        self._tasks.create_task(self._believe(target, healthy, problem), name=f"verdict-{target.id}")

    async def _believe(self, target: Target, healthy: bool, problem: str) -> None:
        def judged(record: Record) -> Record:
            if healthy:
                return replace(record, healthy_since=self._clock().timestamp(), unhealthy="")
            return replace(record, unhealthy=printable(problem, 300) or "no answer")

        if not healthy:
            await self._lines.read(target.id)
        before = self._state.records.get(target.id)
        if before is None or before.run != target.run:
            return
        # On disk before it is known, and told: an agent that is killed now must not, when it is back, take an instance
        # out of the traffic that it had put there.
        try:
            await self._state.keep_ahead(judged(before))
        except OSError as error:
            log.warning("record.not_kept", instance=target.id, error=repr(error))
        now = self._state.records.get(target.id)
        if now is None or now.run != target.run:
            return
        self._state.remember(judged(now))
        self._wake.set()
        self._on_change()
