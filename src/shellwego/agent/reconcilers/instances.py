"""Does this node run what it should?

Observe, plan, apply: `reconcile_once` asks the runtimes what is there, `plan_node` what to do, and starts each action
as a task of its own, so that a slow pull or a long grace time holds up nobody else. At most one action works on an
instance at a time; a removal cuts a start short. What happened is in records on disk, so whoever comes after a kill
goes on from there.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import structlog

from shellwego.agent.last_lines import LastLines
from shellwego.agent.logs import LogStore
from shellwego.agent.plan import Action, End, NodePlan, Record, Remove, Start, new_record, note_failure, plan_node
from shellwego.agent.reconcilers.checks import Checks
from shellwego.agent.reconcilers.images import Images
from shellwego.agent.reconcilers.networks import Networks
from shellwego.agent.reconcilers.starts import Starts
from shellwego.agent.report import Activity, Phase, describe, describe_removal
from shellwego.agent.state import AgentState
from shellwego.core.errors import NotFound, ShellWeGoError, StartFailed
from shellwego.core.ids import InstanceId
from shellwego.drivers.network.port import NetworkDriver
from shellwego.drivers.runtime.port import ExecSession, Observed, RuntimeDriver
from shellwego.kit.backoff import backoff_seconds
from shellwego.kit.clock import Clock
from shellwego.kit.commands import CommandFailed
from shellwego.kit.faults import InjectedFault, fault_point, reach
from shellwego.protocol.messages import ExecRequest, InstanceReport, InstanceSpec, Report

log = structlog.get_logger()

START_RECORDED = fault_point("agent.start.recorded")
END_ENDED = fault_point("agent.end.ended")
END_RECORDED = fault_point("agent.end.recorded")
REMOVE_RECORDED = fault_point("agent.remove.recorded")
REMOVE_ENDED = fault_point("agent.remove.ended")
REMOVE_DETACHED = fault_point("agent.remove.detached")
REMOVE_FORGOTTEN = fault_point("agent.remove.forgotten")

OBSERVE_SECONDS = 20.0
_SHORTEST_ROUND_SECONDS = 0.05
_WATCHFUL_SECONDS = 0.5
"""How often to look while something was started and isn't healthy yet: most broken apps end in their first second."""
_REMOVALS_AT_ONCE = 32
_FIRST_PHASE = {Start: Phase.WAITING, End: Phase.ENDING, Remove: Phase.REMOVING}


@dataclass(slots=True)
class _Work:
    """An action under way."""

    action: Action
    activity: Activity
    task: asyncio.Task[None] | None = None


@dataclass(slots=True)
class _Trouble:
    """An action that failed for the node's reasons, not the app's, and when it may be tried again."""

    attempts: int
    not_before: float
    words: str


@dataclass(frozen=True, slots=True)
class _Sight:
    observed: tuple[Observed, ...] = ()
    blind: frozenset[str] = frozenset()
    problems: tuple[str, ...] = field(default=())


class Instances:
    """
    The instances of one node. `wake` asks for a round now; `on_change` is called when a report would differ.
    Runtime names map to drivers; several names may share one.
    """

    def __init__(
        self,
        tasks: asyncio.TaskGroup,
        state: AgentState,
        *,
        runtimes: Mapping[str, RuntimeDriver],
        network: NetworkDriver,
        networks: Networks,
        images: Images,
        logs: LogStore,
        on_change: Callable[[], None],
        clock: Clock,
    ) -> None:
        self._tasks, self._state = tasks, state
        self._runtimes, self._network = dict(runtimes), network
        self._on_change, self._clock = on_change, clock
        self.wake = asyncio.Event()
        self._lines = LastLines(state, logs)
        self._checks = Checks(
            tasks,
            state,
            dial=network.dial,
            runtime_of=self._runtime_of,
            is_busy=lambda id: id in self._work,
            lines=self._lines,
            wake=self.wake,
            on_change=on_change,
            clock=clock,
        )
        self._starts = Starts(
            state, runtime=self._runtime, network=network, networks=networks, images=images, logs=logs, clock=clock
        )
        self._work: dict[InstanceId, _Work] = {}
        self._trouble: dict[InstanceId, _Trouble] = {}
        self._sight = _Sight(blind=frozenset(runtimes))
        self._gone: frozenset[InstanceId] = frozenset()
        self._unclaimed: tuple[InstanceId, ...] = ()
        self._removal_slots = asyncio.Semaphore(_REMOVALS_AT_ONCE)
        self._round_at = float("-inf")
        self.observed_once = False

    # What the agent's other parts ask

    @property
    def problems(self) -> tuple[str, ...]:
        return self._sight.problems

    @property
    def unclaimed(self) -> tuple[InstanceId, ...]:
        """What runs here although the server named it neither to run nor to go."""
        return self._unclaimed

    @property
    def running(self) -> list[tuple[str, InstanceId]]:
        """App and id of each instance that runs and has a log."""
        apps = {record.id: record.app for record in self._state.records.values()}
        return [(apps[seen.id], seen.id) for seen in self._sight.observed if seen.running and seen.id in apps]

    @property
    def present(self) -> frozenset[InstanceId] | None:
        """Every instance that may have something on this node, None while that can't be known."""
        if not self.observed_once or self._sight.blind:
            return None
        return frozenset(self._state.records) | {seen.id for seen in self._sight.observed} | frozenset(self._work)

    def make_report(self) -> Report:
        goal = self._state.goal
        removals = {removal.id for removal in goal.absent}
        reports = [self._describe(spec) for spec in (*goal.run, *goal.retained) if spec.id not in removals]
        for removal in goal.absent:
            trouble = self._trouble.get(InstanceId(removal.id))
            gone = removal.id in self._gone
            reports.append(describe_removal(removal.id, gone=gone, detail=trouble.words if trouble else ""))
        return Report(generation=goal.generation, instances=reports, unclaimed=list(self._unclaimed))

    async def enter(self, id: InstanceId, request: ExecRequest) -> ExecSession:
        """A command inside an instance. Raises NotFound, StartFailed."""
        runtime = self._runtime_of(id)
        env = {"TERM": "xterm-256color", **request.env} if request.tty else request.env
        return await runtime.exec(
            id, tuple(request.command), tty=request.tty, env=env, columns=request.columns, rows=request.rows
        )

    async def reopen_log(self, id: InstanceId) -> None:
        record = self._state.records.get(id)
        if record is not None:
            await self._runtime(record.runtime).reopen_log(id)

    # The loop

    async def reconcile_once(self) -> NodePlan:
        """One round. Returns what was planned."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._round_at + _SHORTEST_ROUND_SECONDS - loop.time()))
        self._round_at = loop.time()
        # What is being changed while we look can't be concluded from, even if the change is done when we know.
        busy = set(self._work)
        self._sight = await self._observe()
        self.observed_once = True
        plan = plan_node(
            self._state.goal,
            self._sight.observed,
            self._state.records,
            self._clock().timestamp(),
            busy=busy | set(self._work),
            blind=self._sight.blind,
        )
        for record in plan.notes:
            self._state.remember(record)
        changed = bool(plan.notes) or plan.unclaimed != self._unclaimed or frozenset(plan.gone) != self._gone
        self._gone, self._unclaimed = frozenset(plan.gone), plan.unclaimed
        for record in plan.notes:
            await self._note(record)
        for action in plan.actions:
            self._begin(action)
        self._checks.follow()
        if changed:
            self._on_change()
        self._wake_later(plan)
        return plan

    async def _observe(self) -> _Sight:
        drivers: dict[int, tuple[RuntimeDriver, set[str]]] = {}
        for name, driver in self._runtimes.items():
            drivers.setdefault(id(driver), (driver, set()))[1].add(name)
        observed: list[Observed] = []
        blind: set[str] = set()
        problems: list[str] = []
        for driver, names in drivers.values():
            try:
                async with asyncio.timeout(OBSERVE_SECONDS):
                    observed += await driver.observe()
            except (ShellWeGoError, OSError, CommandFailed, TimeoutError) as error:
                blind |= names
                problems.append(f"Runtime {driver.name} can't be observed: {error or 'it does not answer'}")
                log.warning("runtime.blind", runtime=driver.name, error=repr(error))
        return _Sight(tuple(observed), frozenset(blind), tuple(problems))

    async def _note(self, record: Record) -> None:
        if record.run is None and record.exit is not None:
            self._checks.forget(record.id)
            log.info("instance.ended", instance=record.id, how=str(record.exit), failures=record.failures)
            await self._lines.read(record.id)
        await self._keep(record.id)

    def _wake_later(self, plan: NodePlan) -> None:
        waits = [] if plan.wake_in_seconds is None else [plan.wake_in_seconds]
        if any(record.run is not None and record.healthy_since is None for record in self._state.records.values()):
            waits.append(_WATCHFUL_SECONDS)
        waits += [t.not_before - asyncio.get_running_loop().time() for t in self._trouble.values()]
        due = [wait for wait in waits if wait > 0]
        if due:
            asyncio.get_running_loop().call_later(min(due) + 0.01, self.wake.set)

    # Actions

    def _begin(self, action: Action) -> None:
        id = action.id
        work = self._work.get(id)
        if work is not None:
            if isinstance(action, Remove) and isinstance(work.action, Start) and work.activity.phase is Phase.PULLING:
                assert work.task is not None
                work.task.cancel()  # Nothing exists yet. A start that is further comes to its end and is undone then.
            return
        trouble = self._trouble.get(id)
        if trouble is not None and asyncio.get_running_loop().time() < trouble.not_before:
            return
        work = self._work[id] = _Work(action, Activity(_FIRST_PHASE[type(action)]))
        work.task = self._tasks.create_task(self._carry_out(work), name=f"{type(action).__name__}-{id}")
        self._on_change()

    async def _carry_out(self, work: _Work) -> None:
        id, finished = work.action.id, False
        try:
            match work.action:
                case Start() as action:
                    await self._start(work, action)
                case End() as action:
                    await self._end(work, action)
                case Remove() as action:
                    await self._remove(action)
            self._trouble.pop(id, None)
            finished = True
        except Exception as error:  # One instance's trouble must not end the agent; it is reported and tried again.
            attempts = self._trouble[id].attempts + 1 if id in self._trouble else 1
            wait = backoff_seconds(attempts, limit=30, jitter=random.random)
            self._trouble[id] = _Trouble(attempts, asyncio.get_running_loop().time() + wait, str(error))
            expected = isinstance(error, (ShellWeGoError, OSError, CommandFailed, InjectedFault))
            log.warning(
                "instance.action_failed",
                instance=id,
                action=type(work.action).__name__,
                error=repr(error),
                exc_info=not expected,
            )
            finished = True
        finally:
            del self._work[id]
            if finished:  # A cancelled one may mean the agent's end, when no check can be begun any more.
                self._checks.follow()
            self.wake.set()
            self._on_change()

    async def _start(self, work: _Work, action: Start) -> None:
        spec = self._state.find_spec(action.id)
        if spec is None:
            return
        before = self._state.records.get(InstanceId(spec.id)) or new_record(spec)
        if before.restart_token != spec.restart_token:
            before = replace(before, restart_token=spec.restart_token, failures=0, failed_at=None, exit=None)
        record = await self._starts.start(spec, before, lambda phase, words: self._say(work, phase, words))
        if record.run is None:
            self._lines.forget(before.id)
        await self._keep(before.id)
        if record.run is not None:
            await reach(START_RECORDED)
            log.info("instance.started", instance=before.id, app=spec.app_name, again=before.exit is not None)

    async def _end(self, work: _Work, action: End) -> None:
        record = self._state.records.get(action.id)
        spec = self._state.find_spec(action.id)
        if record is None:
            record = new_record(spec) if spec else None
        if record is None or spec is None:
            return
        why = str(action.status) if action.status else "a restart was asked for"
        self._say(work, Phase.ENDING, why)
        self._checks.forget(action.id)
        log.info("instance.ending", instance=action.id, why=why)
        await self._runtime(record.runtime).ensure_absent(action.id, grace_seconds=action.grace_seconds)
        await reach(END_ENDED)
        record = self._state.records.get(action.id, record)
        if action.status is not None:
            await self._lines.read(action.id)
            self._state.remember(note_failure(record, action.status, self._clock().timestamp()))
        else:
            fresh = replace(record, run=None, healthy_since=None, unhealthy="", failures=0, failed_at=None, exit=None)
            self._state.remember(replace(fresh, restart_token=spec.restart_token))
        await self._keep(action.id)
        await reach(END_RECORDED)

    async def _remove(self, action: Remove) -> None:
        record = self._state.records.get(action.id)
        self._checks.forget(action.id)
        if record is not None and record.removing is None:
            self._state.remember(replace(record, removing=action.grace_seconds))
            await self._keep(action.id)
        await reach(REMOVE_RECORDED)
        async with self._removal_slots:
            known = self._runtimes.get(record.runtime) if record is not None else None
            for driver in [known] if known is not None else self._drivers():
                await driver.ensure_absent(action.id, grace_seconds=action.grace_seconds)
            await reach(REMOVE_ENDED)
            await self._network.ensure_detached(action.id)
            await reach(REMOVE_DETACHED)
        await self._state.forget_record(action.id, self._clock().timestamp())
        self._lines.forget(action.id)
        await reach(REMOVE_FORGOTTEN)
        log.info("instance.removed", instance=action.id)

    # Small things

    def _describe(self, spec: InstanceSpec) -> InstanceReport:
        id = InstanceId(spec.id)
        work = self._work.get(id)
        return describe(
            spec,
            self._state.records.get(id),
            work.activity if work else None,
            check_detail=self._checks.last_word(id),
            last_lines=self._lines.of(id),
        )

    def _runtime(self, name: str) -> RuntimeDriver:
        driver = self._runtimes.get(name)
        if driver is None:
            offered = ", ".join(sorted(self._runtimes)) or "none"
            raise StartFailed(f"This node has no runtime {name!r}; it offers: {offered}.")
        return driver

    def _runtime_of(self, id: InstanceId) -> RuntimeDriver:
        record = self._state.records.get(id)
        if record is None:
            raise NotFound("running instance", id)
        return self._runtime(record.runtime)

    def _drivers(self) -> list[RuntimeDriver]:
        return list({id(driver): driver for driver in self._runtimes.values()}.values())

    def _say(self, work: _Work, phase: Phase, detail: str) -> None:
        activity = Activity(phase, detail)
        if work.activity != activity:
            work.activity = activity
            self._on_change()

    async def _keep(self, id: InstanceId) -> None:
        """Write a record; a disk that refuses is a warning of the node's, no reason to stop running apps."""
        try:
            await self._state.keep(id)
        except OSError as error:
            log.warning("record.not_kept", instance=id, error=repr(error))
