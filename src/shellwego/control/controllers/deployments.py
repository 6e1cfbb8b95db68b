"""How does what runs become what should run?

For each app: observe its instances, ask `plan_rollout` and `plan_placement`, write the step, and let `judge_rollout`
say whether a deployment under way is done or can't be. The same round serves deployments, scaling, stopping, deleting
and the way back after a failure. It remembers nothing but which apps to look at first: a sweep of all follows anyway.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import structlog

from shellwego.control.controllers.concerns import concerning
from shellwego.control.orchestration.placement import Demand, Load, plan_placement
from shellwego.control.orchestration.rollout import (
    RolloutGoal,
    RolloutStep,
    Seen,
    Verdict,
    judge_rollout,
    plan_rollout,
)
from shellwego.control.services import deployments as service
from shellwego.control.services.apps import finish_deletion
from shellwego.control.store.records import (
    AppRecord,
    DeploymentRecord,
    EventRecord,
    InstanceRecord,
    ReleaseRecord,
)
from shellwego.control.store.unit_of_work import Store, UnitOfWork
from shellwego.core.apps import WEB, Resources
from shellwego.core.deployments import DeploymentKind, DeploymentState
from shellwego.core.errors import NoCapacity, NotFound
from shellwego.core.ids import AppId, InstanceId, NodeId, ReleaseId
from shellwego.core.instances import ExitReason, Instance, InstanceGoal, InstanceState
from shellwego.kit.faults import fault_point, reach
from shellwego.kit.stopwatch import Stopwatch

log = structlog.get_logger()

_PLANNED = fault_point("server.deploy.planned")
_PLACED = fault_point("server.deploy.placed")
_STEP_WRITTEN = fault_point("server.deploy.step_written")
_JUDGED = fault_point("server.deploy.judged")

PATIENCE_SECONDS = 600.0
"""A rollout that reached nothing for so long, beyond what its health checks allow, is given up."""
EDGE_PATIENCE_SECONDS = 3600.0
"""
So long after its grace a leaving instance of an app that should serve waits for an edge that says nothing: the proxy
outlives its edge and may know no other instance. A deployment that waits for it is given up long before.
"""
UNSERVED_PATIENCE_SECONDS = 30.0
"""The same for an app that was stopped or deleted: nobody is promised an answer any more."""
SWEEP_SECONDS = 15.0
PAGE = 100
"""So many apps a sweep reads at once."""

_CONCERN = ("app.", "deployment.", "instance.", "node.")
"""Events that may begin, help or end a rollout; those of a node have every app looked at."""


class DeploymentsController:
    """Call `notice` with what happened; run `once` in a loop."""

    def __init__(self, store: Store, wake: asyncio.Event, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._store, self._wake, self._monotonic = store, wake, monotonic
        self._dirty: set[AppId] = set()
        self._swept_at: float | None = None
        self._patience = Stopwatch(monotonic)

    def notice(self, events: Collection[EventRecord]) -> None:
        """Look at the apps of these events first."""
        for event in concerning(events, _CONCERN):
            if event.app is not None:
                self._dirty.add(event.app)
            elif event.kind.startswith("node."):
                self._swept_at = None
            self._wake.set()

    async def once(self) -> None:
        """One round: the apps that something happened to; from time to time every app that isn't at rest."""
        dirty, self._dirty = self._dirty, set()
        failed: Exception | None = None
        try:
            dirty |= await self._due()
            for app in sorted(dirty):
                try:
                    await self._converge(app)
                    dirty.discard(app)
                except Exception as error:  # Raised below: one app's trouble must not keep the others waiting.
                    failed = failed or error
        finally:
            self._dirty |= dirty  # What is left over is looked at again in the next round.
        if failed is not None:
            raise failed

    async def _due(self) -> set[AppId]:
        """From time to time: every app that isn't at rest."""
        now = self._monotonic()
        if self._swept_at is not None and now - self._swept_at < SWEEP_SECONDS:
            return set()
        due: set[AppId] = set()
        waited_for: set[Hashable] = set()
        async with self._store.reading() as work:
            async for s in _observe_all(work, self._patience):
                if not s.is_at_rest:
                    due.add(s.app.id)
                waited_for.update(i.id for i in s.instances if i.goal is InstanceGoal.DRAIN)
                if s.rolling is not None:
                    waited_for.add(s.rolling.id)
        self._patience.forget_all_but(waited_for)
        self._swept_at = now
        return due

    async def _converge(self, id: AppId) -> None:
        async with self._store.writing() as work:
            try:
                app = await work.for_the_cloud().apps.lock(id)
            except NotFound:
                return
            situation = await _observe(work, app, self._patience)
            step = plan_rollout(situation.goal, situation.planned)
            await reach(_PLANNED)
            refused = await _apply(work, situation, step)
            await _conclude(work, situation, refused, self._patience)
        if not step.is_noop:
            await reach(_STEP_WRITTEN)


@dataclass(frozen=True, slots=True)
class _Situation:
    """All that one round about one app looks at."""

    app: AppRecord
    goal: RolloutGoal
    release: ReleaseRecord | None
    rolling: DeploymentRecord | None
    instances: tuple[InstanceRecord, ...]
    planned: tuple[Instance, ...]

    @property
    def is_at_rest(self) -> bool:
        return self.rolling is None and self.app.deleting_at is None and plan_rollout(self.goal, self.planned).is_noop


async def _observe(work: UnitOfWork, app: AppRecord, patience: Stopwatch) -> _Situation:
    cloud = work.for_the_cloud()
    unfinished = await cloud.deployments.unfinished_of(app.id)
    instances = await cloud.instances.of_app(app.id)
    wanted = {app.current_release, *(i.release for i in instances), unfinished.release if unfinished else None}
    releases = await cloud.releases.some(wanted)
    return _situate(app, unfinished, instances, releases, await cloud.apps.replicas(app.id), patience)


async def _observe_all(work: UnitOfWork, patience: Stopwatch) -> AsyncIterator[_Situation]:
    """Every app, some at a time: neither memory nor anybody's request should feel that there are thousands."""
    cloud = work.for_the_cloud()
    unfinished = {d.app: d for d in await cloud.deployments.unfinished()}
    after: str | None = None
    while apps := await cloud.apps.page(limit=PAGE, after=after):
        after = apps[-1].name
        ids = [app.id for app in apps]
        instances = await cloud.instances.of_apps(ids)
        wanted = {app.current_release for app in apps} | {i.release for group in instances.values() for i in group}
        wanted |= {unfinished[id].release for id in ids if id in unfinished}
        releases = await cloud.releases.some(wanted)
        wished = await cloud.apps.replicas_of(ids)
        for app in apps:
            yield _situate(app, unfinished.get(app.id), instances[app.id], releases, wished[app.id], patience)
        await asyncio.sleep(0)


def _situate(
    app: AppRecord,
    unfinished: DeploymentRecord | None,
    instances: Sequence[InstanceRecord],
    releases: Mapping[ReleaseId, ReleaseRecord],
    wished: Mapping[str, int],
    patience: Stopwatch,
) -> _Situation:
    """A deployment under way sets the goal once its release exists; before that, and after a failure, the last good."""
    rolling = unfinished if unfinished is not None and unfinished.state is DeploymentState.ROLLING else None
    target = rolling.release if rolling is not None else app.current_release
    release = releases.get(target) if target is not None else None
    counts: dict[str, int] = {}
    if release is not None and app.wants_instances:
        counts = {p.name: wished.get(p.name, 1) for p in release.spec.processes}
    goal = RolloutGoal(release.id if release is not None else None, counts)
    planned = tuple(_planned(app, i, rolling, releases.get(i.release), patience) for i in instances)
    return _Situation(app, goal, release, rolling, tuple(instances), planned)


def _planned(
    app: AppRecord,
    record: InstanceRecord,
    rolling: DeploymentRecord | None,
    release: ReleaseRecord | None,
    patience: Stopwatch,
) -> Instance:
    """The instance as the planner shall see it."""
    instance = record.planned
    if rolling is not None and rolling.kind is DeploymentKind.RESTART and record.deployment != rolling.id:
        # A restart replaces instances of the very release it deploys: those that were there before are the old ones.
        instance = replace(instance, release=ReleaseId(f"{instance.release} before {rolling.id}"))
    if record.goal is InstanceGoal.DRAIN:
        grace = release.spec.grace_seconds if release is not None else 0.0
        longest = EDGE_PATIENCE_SECONDS if app.wants_instances else UNSERVED_PATIENCE_SECONDS
        if patience.seconds(record.id) > grace + longest:
            instance = replace(instance, drained=True)
    return instance


async def _apply(work: UnitOfWork, situation: _Situation, step: RolloutStep) -> NoCapacity | None:
    """Write the step; what could not be placed now is planned again with the next round."""
    cloud = work.for_the_cloud()
    process_of = {i.id: i.process for i in situation.instances}
    stop = [*step.stop, *(id for id in step.drain if process_of[id] != WEB)]  # Only web gets requests to wait for.
    for id in step.drain:
        if process_of[id] == WEB:
            await cloud.instances.set_goal(id, InstanceGoal.DRAIN)
            await _emit(work, "instance.draining", situation.app, id)
    for id in stop:
        # An instance that no node ever got has nobody to report it gone.
        unplaced = next(i for i in situation.instances if i.id == id).node is None
        gone = {"state": InstanceState.STOPPED, "removed_at": work.now} if unplaced else {}
        await cloud.instances.set_goal(id, InstanceGoal.STOP, **gone)
        await _emit(work, "instance.stopping", situation.app, id)
    return await _start(work, situation, step.start) if step.start else None


async def _start(work: UnitOfWork, situation: _Situation, start: Mapping[str, int]) -> NoCapacity | None:
    """Place and write new instances."""
    release = situation.release
    assert release is not None
    cloud = work.for_the_cloud()
    wanted = [process for process, count in sorted(start.items()) for _ in range(count)]
    demands = [Demand(situation.app.id, _resources(release, process), release.spec.runtime) for process in wanted]
    nodes = [node.planned(work.now) for node in await work.nodes.all()]
    places = plan_placement(demands, nodes, await _loads(work))
    await reach(_PLACED)
    refused: NoCapacity | None = None
    for process, place in zip(wanted, places, strict=True):
        if isinstance(place, NoCapacity):
            refused = place
            continue
        instance = InstanceRecord(
            id=InstanceId(work.new_id("instance")),
            organisation=situation.app.organisation,
            app=situation.app.id,
            release=release.id,
            process=process,
            created_at=work.now,
            deployment=situation.rolling.id if situation.rolling is not None else release.deployment,
            node=place,
            port=release.spec.port if process == WEB else None,
        )
        await cloud.instances.add(instance)
        await _emit(work, "instance.created", situation.app, instance.id)
    return refused


def _resources(release: ReleaseRecord, process: str) -> Resources:
    shape = release.spec.process(process)
    return shape.resources if shape is not None else Resources()


async def _loads(work: UnitOfWork) -> dict[NodeId, Load]:
    """What is promised on each node. Instances that are told to stop hold their memory until they are gone."""
    cloud = work.for_the_cloud()
    living = await cloud.instances.living()
    releases = await cloud.releases.some({i.release for i in living})
    loads: dict[NodeId, Load] = {}
    for instance in living:
        release = releases.get(instance.release)
        if instance.node is None or release is None:
            continue
        load, resources = loads.get(instance.node, Load()), _resources(release, instance.process)
        loads[instance.node] = Load(
            load.memory_mib + resources.memory_mib,
            load.cpu_millis + resources.cpu_millis,
            {**load.instances_of, instance.app: load.instances_of.get(instance.app, 0) + 1},
        )
    return loads


async def _conclude(work: UnitOfWork, situation: _Situation, refused: NoCapacity | None, patience: Stopwatch) -> None:
    """End what has come to its end: a deployment, or an app that was deleted."""
    app, rolling = situation.app, situation.rolling
    if app.deleting_at is not None:
        if not await work.for_the_cloud().instances.of_app(app.id):
            await finish_deletion(work, app)
        return
    if rolling is None:
        return
    current = await work.for_the_cloud().instances.of_app(app.id)
    verdict = judge_rollout(
        situation.goal,
        [_seen(record, rolling, situation, patience) for record in current],
        out_of_time=patience.seconds(rolling.id) > _longest_seconds(situation.release),
    )
    await reach(_JUDGED)
    if verdict.done:
        await service.succeed(work, rolling, step=verdict.step)
    elif verdict.failed:
        await _fail(work, situation, rolling, verdict, current)
    elif refused is not None and refused.never:
        # Nothing that may end or leave would make the room: whoever waits should hear it now.
        await service.fail(work, rolling, reason=str(refused), code=refused.code)
    else:
        how_far = str(refused) if refused is not None else verdict.step
        if how_far != rolling.step:
            await service.progress(work, rolling, how_far)


def _seen(record: InstanceRecord, rolling: DeploymentRecord, situation: _Situation, patience: Stopwatch) -> Seen:
    planned = _planned(situation.app, record, rolling, situation.release, patience)
    return Seen(planned, record.exit_reason, record.exit_code, record.reason)


def _longest_seconds(release: ReleaseRecord | None) -> float:
    """How long its rollout may take."""
    if release is None:
        return math.inf
    checks = [p.health for p in release.spec.processes]
    allowed = max(
        (h.start_period_seconds + h.retries * (h.interval_seconds + h.timeout_seconds) for h in checks), default=0
    )
    return PATIENCE_SECONDS + allowed + release.spec.grace_seconds


async def _fail(
    work: UnitOfWork,
    situation: _Situation,
    rolling: DeploymentRecord,
    verdict: Verdict,
    current: Collection[InstanceRecord],
) -> None:
    culprit = next((i for i in current if i.id == verdict.culprit), None)
    lines = culprit.last_lines if culprit is not None else ()
    why = verdict.why
    if culprit is not None and culprit.exit_reason is ExitReason.OUT_OF_MEMORY and situation.release is not None:
        limit = _resources(situation.release, culprit.process).memory_mib
        why += f"; it may use {limit} MiB. Give it more with --memory."
    log.info("deployment.failed", deployment=rolling.id, why=why)
    await service.fail(work, rolling, reason=why, code="rollout_failed", last_lines=lines)


async def _emit(work: UnitOfWork, kind: str, app: AppRecord, instance: InstanceId) -> None:
    await work.emit(kind, subject=instance, organisation=app.organisation, payload={"app": cast("str", app.id)})
