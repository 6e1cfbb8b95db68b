"""How does one instance begin to run?

Image, address, network, sandbox, in this order; each is there already or is made, so a start that was cut short is
simply made again. What it takes is noted in the instance's record before it is used.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address

import structlog

from shellwego.agent.addresses import choose_address
from shellwego.agent.logs import LogStore
from shellwego.agent.plan import Record, note_failure
from shellwego.agent.reconcilers.images import Images
from shellwego.agent.reconcilers.networks import Networks
from shellwego.agent.report import Phase, printable
from shellwego.agent.state import AgentState
from shellwego.agent.workload import make_workload
from shellwego.core.errors import ShellWeGoError, StartFailed
from shellwego.core.instances import ExitReason, ExitStatus
from shellwego.core.redaction import Redaction
from shellwego.drivers.network.port import NetworkDriver
from shellwego.drivers.runtime.port import RuntimeDriver
from shellwego.kit.clock import Clock
from shellwego.kit.commands import CommandFailed
from shellwego.kit.faults import InjectedFault, fault_point, reach
from shellwego.protocol.messages import InstanceSpec

log = structlog.get_logger()

START_PULLED = fault_point("agent.start.pulled")
START_ADDRESSED = fault_point("agent.start.addressed")
START_ATTACHED = fault_point("agent.start.attached")
START_RUNNING = fault_point("agent.start.running")

Say = Callable[[Phase, str], None]
"""Told how far a start is."""


class Starts:
    """Starts instances of one node, some of them at once."""

    def __init__(
        self,
        state: AgentState,
        *,
        runtime: Callable[[str], RuntimeDriver],
        network: NetworkDriver,
        networks: Networks,
        images: Images,
        logs: LogStore,
        clock: Clock,
    ) -> None:
        """`runtime` finds the driver of that name, or raises StartFailed."""
        self._state, self._runtime = state, runtime
        self._network, self._networks = network, networks
        self._images, self._logs, self._clock = images, logs, clock
        self._slots = asyncio.Semaphore(max(4, 2 * (os.cpu_count() or 1)))

    async def start(self, spec: InstanceSpec, before: Record, say: Say) -> Record:
        """The instance's record, in memory, once it runs (`run` is set), or once it is known why it doesn't."""
        try:
            began = await self._make_it_run(spec, before, say)
        except Exception as error:
            record = self._failed(spec, before, error)
        else:
            record = replace(
                self._state.records[before.id],
                run=began,
                healthy_since=None,
                unhealthy="",
                restart_token=before.restart_token,
                failures=before.failures,
                failed_at=before.failed_at,
                exit=before.exit,
                restarts=before.restarts + (before.exit is not None),
            )
        self._state.remember(record)
        return record

    async def _make_it_run(self, spec: InstanceSpec, before: Record, say: Say) -> float:
        runtime = self._runtime(spec.runtime)
        say(Phase.PULLING, "")
        image = await self._images.ensure(spec.image, lambda words: say(Phase.PULLING, words))
        await reach(START_PULLED)
        say(Phase.WAITING, "")
        async with self._slots:
            say(Phase.STARTING, "")
            address = await self._ensure_address(before)
            await reach(START_ADDRESSED)
            attachment = await self._networks.attach(before.id, address)
            await reach(START_ATTACHED)
            workload = await asyncio.to_thread(
                make_workload,
                spec,
                image,
                attachment,
                nameservers=self._network.nameservers,
                log_path=self._logs.path_for(spec.app, before.id),
                extra_ca=self._state.goal.extra_ca,
            )
            began = self._clock().timestamp()
            await runtime.ensure_running(workload)
            await reach(START_RUNNING)
            return began

    async def _ensure_address(self, before: Record) -> IPv4Address:
        record = self._state.records.get(before.id, before)
        if record.address is not None:
            return IPv4Address(record.address)
        address = choose_address(
            self._network.addresses, self._state.taken_addresses, self._state.released, self._clock().timestamp()
        )
        # Taken in memory before anything is awaited, so no other start can choose it; on disk before it is used.
        self._state.remember(replace(record, address=str(address)))
        try:
            await self._state.keep(record.id)
        except OSError as error:
            self._state.remember(replace(record, address=None))
            raise StartFailed(f"The node could not write down the instance's address: {error.strerror}") from error
        return address

    def _failed(self, spec: InstanceSpec, before: Record, error: Exception) -> Record:
        words = str(error) or type(error).__name__
        if not isinstance(error, (ShellWeGoError, OSError, CommandFailed, TimeoutError, InjectedFault)):
            log.exception("instance.start_broke", instance=spec.id)
            words = f"an error of ShellWeGo itself: {error!r}"
        words = Redaction.of_config(spec.env)(words)  # A runtime's complaint may repeat what it was given.
        status = ExitStatus(ExitReason.FAILED_TO_START, message=printable(words, 800))
        address = self._state.records.get(before.id, before).address
        record = note_failure(replace(before, address=address), status, self._clock().timestamp())
        log.warning("instance.not_started", instance=spec.id, why=status.message, failures=record.failures)
        return record
