"""What must change on this node?

`plan_node` compares what should run with what does and says what to do now: at most one action per instance. It knows
no clock, no event loop and no disk, so an agent that was killed anywhere asks it again and goes on. The reconciler in
`reconcilers/instances.py` carries a plan out; `report.py` puts the same facts into words for the server.

Two rules it keeps: nothing is removed that nobody named, and an end is counted once, however often it is seen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from shellwego.core.ids import InstanceId
from shellwego.core.instances import ExitReason, ExitStatus
from shellwego.drivers.runtime.port import Observed
from shellwego.protocol.messages import Assignment, InstanceSpec, Removal

STEADY_SECONDS = 60.0
"""An instance that was healthy this long has recovered: its next failure is the first again."""
CRASH_LOOP_FAILURES = 5
LONGEST_PAUSE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Goal:
    """
    What should be on this node. `retained` are instances that an earlier assignment wanted and the present one
    doesn't name at all: nobody asked to remove them, so they go on, and are reported as unclaimed.
    """

    generation: int = 0
    run: tuple[InstanceSpec, ...] = ()
    absent: tuple[Removal, ...] = ()
    retained: tuple[InstanceSpec, ...] = ()
    extra_ca: str = ""
    keep_images: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """
    What the agent remembers of an instance. Times are seconds since the epoch.

    `run` is when the run under way began; it becomes None when the end of that run has been counted. `failures`
    counts failures in a row, `restarts` every start after the first that the app itself made necessary. `removing`
    is the grace of a removal that began: it goes on whatever later assignments say.
    """

    id: InstanceId
    runtime: str
    app: str
    address: str | None = None
    run: float | None = None
    healthy_since: float | None = None
    unhealthy: str = ""
    restart_token: int = 0
    restarts: int = 0
    failures: int = 0
    failed_at: float | None = None
    exit: ExitStatus | None = None
    removing: float | None = None


@dataclass(frozen=True, slots=True)
class Start:
    """Make it run: the first time, again after an end, or after a half-made start."""

    id: InstanceId


@dataclass(frozen=True, slots=True)
class End:
    """End this run so that another can begin. `status` is counted as a failure; None is an operator's restart."""

    id: InstanceId
    grace_seconds: float
    status: ExitStatus | None


@dataclass(frozen=True, slots=True)
class Remove:
    """Be gone for good, with network and record; the log stays."""

    id: InstanceId
    grace_seconds: float


Action = Start | End | Remove


@dataclass(frozen=True, slots=True)
class NodePlan:
    """
    `notes` are records that changed by what was seen; they are kept before any action is taken. `gone` are removals
    that are done. `wake_in_seconds` is when a waiting restart comes due.
    """

    actions: tuple[Action, ...] = ()
    notes: tuple[Record, ...] = ()
    unclaimed: tuple[InstanceId, ...] = ()
    gone: tuple[InstanceId, ...] = ()
    wake_in_seconds: float | None = None

    @property
    def is_noop(self) -> bool:
        return not self.actions and not self.notes


def goal_after(goal: Goal, assignment: Assignment) -> Goal:
    """The goal once an assignment is accepted: what it no longer names at all is retained, not removed."""
    named = {spec.id for spec in assignment.run} | {removal.id for removal in assignment.absent}
    keep = assignment.keep_images
    return Goal(
        generation=assignment.generation,
        run=tuple(assignment.run),
        absent=tuple(assignment.absent),
        retained=tuple(spec for spec in (*goal.run, *goal.retained) if spec.id not in named),
        extra_ca=assignment.extra_ca,
        keep_images=None if keep is None else tuple(keep),
    )


def plan_node(
    goal: Goal,
    observed: Collection[Observed],
    records: Mapping[InstanceId, Record],
    now: float,
    *,
    busy: Collection[InstanceId] = (),
    blind: Collection[str] = (),
) -> NodePlan:
    """
    What to do now. `busy` instances have an action under way and get no other, except that a removal is planned
    beside a start, which the reconciler then cuts short. `blind` names runtimes that could not be observed: of their
    instances nothing is known, so nothing is concluded.
    """
    seen = {sandbox.id: sandbox for sandbox in observed}
    removals = {InstanceId(removal.id): removal.grace_seconds for removal in goal.absent}
    for record in records.values():
        if record.removing is not None:
            removals.setdefault(record.id, record.removing)
    wanted = {InstanceId(spec.id): spec for spec in (*goal.retained, *goal.run) if spec.id not in removals}

    actions: list[Action] = []
    notes: list[Record] = []
    gone: list[InstanceId] = []
    wakes: list[float] = []

    for id, grace_seconds in removals.items():
        if id in records or id in seen or id in busy:
            actions.append(Remove(id, grace_seconds))
        elif not blind:  # What can't be seen may still be there.
            gone.append(id)

    for id, spec in wanted.items():
        if id in busy or spec.runtime in blind:
            continue
        # One that has no record yet gets it when it is started; until then there is nothing to remember.
        before = records.get(id) or new_record(spec)
        record, action, wait = _plan_instance(spec, seen.get(id), before, now)
        if record != before:
            notes.append(record)
        if action is not None:
            actions.append(action)
        if wait is not None:
            wakes.append(wait)

    retained = {spec.id for spec in goal.retained}
    unclaimed = sorted({id for id in seen if id not in wanted and id not in removals} | (retained & wanted.keys()))
    return NodePlan(
        actions=tuple(actions),
        notes=tuple(notes),
        unclaimed=tuple(InstanceId(id) for id in unclaimed),
        gone=tuple(gone),
        wake_in_seconds=min(wakes, default=None),
    )


def new_record(spec: InstanceSpec) -> Record:
    return Record(InstanceId(spec.id), spec.runtime, spec.app, restart_token=spec.restart_token)


def pause_seconds(record: Record) -> float:
    """
    How long to wait before the next start: after one failure a second, then 2, 4, 8, then a minute. Of the minute each
    instance draws up to a quarter off, so that a thousand that fell with the same database don't rise, and fall, in one
    moment for ever. It draws by its name, so that asking again gives the same answer.
    """
    if record.failures <= 0:
        return 0.0
    if record.failures < CRASH_LOOP_FAILURES:
        return float(2 ** (record.failures - 1))
    # Not by a checksum: those of two names differ by the same bits for each number, so that draws add up alike.
    drawn = hashlib.sha256(f"{record.id} {record.failures}".encode()).digest()
    share = int.from_bytes(drawn[:4]) / 2**32
    return LONGEST_PAUSE_SECONDS * (1 - share / 4)


def note_failure(record: Record, status: ExitStatus, now: float) -> Record:
    """The record once a run ended so, or could not begin."""
    steady = record.healthy_since is not None and now - record.healthy_since >= STEADY_SECONDS
    return replace(
        record,
        run=None,
        healthy_since=None,
        unhealthy="",
        failures=1 if steady else record.failures + 1,
        failed_at=now,
        exit=status,
    )


def _plan_instance(
    spec: InstanceSpec, sandbox: Observed | None, record: Record, now: float
) -> tuple[Record, Action | None, float | None]:
    id = record.id
    if sandbox is not None and sandbox.running:
        if record.address is None:
            # Its record was lost, and with it the address, which may be given to another any time.
            status = ExitStatus(ExitReason.UNKNOWN, message="its place on the node was lost; it was started anew")
            return record, End(id, spec.grace_seconds, status), None
        if record.run is None:
            # A start that nobody saw the end of, or one that has just been made.
            record = replace(record, run=sandbox.started_at or now, healthy_since=None, unhealthy="")
        if record.restart_token != spec.restart_token:
            return record, End(id, spec.grace_seconds, None), None
        if record.unhealthy:
            status = ExitStatus(ExitReason.UNHEALTHY, message=record.unhealthy)
            return record, End(id, spec.grace_seconds, status), None
        return record, None, None

    if record.run is not None:
        record = _note_end(record, sandbox, now)
    wait = _pause_left(record, now)
    if wait > 0 and record.restart_token == spec.restart_token:
        return record, None, wait
    return record, Start(id), None


def _note_end(record: Record, sandbox: Observed | None, now: float) -> Record:
    assert record.run is not None
    if sandbox is not None and sandbox.exit is not None and _was_its_own(sandbox.exit):
        return note_failure(record, sandbox.exit, now)  # The check only noticed what had happened.
    if record.unhealthy:
        return note_failure(record, ExitStatus(ExitReason.UNHEALTHY, message=record.unhealthy), now)
    if sandbox is not None:
        return note_failure(record, sandbox.exit or ExitStatus(ExitReason.UNKNOWN), now)
    unseen = ExitStatus(ExitReason.UNKNOWN, message="ended unseen, as when the machine restarts")
    if 0 <= now - record.run < STEADY_SECONDS:
        return note_failure(record, unseen, now)
    # A machine's restart is nobody's failure: begin again at once, with the patience there was.
    return replace(record, run=None, healthy_since=None, exit=unseen)


def _was_its_own(exit: ExitStatus) -> bool:
    """Whether the app ended by itself, and not by the signals with which we end one."""
    if exit.reason is ExitReason.SIGNALLED:
        return exit.code not in {9, 15}
    return exit.reason in {ExitReason.EXITED, ExitReason.OUT_OF_MEMORY} and exit.code not in {128 + 9, 128 + 15}


def _pause_left(record: Record, now: float) -> float:
    if record.failed_at is None:
        return 0.0
    pause = pause_seconds(record)
    left = record.failed_at + pause - now
    # More left than the whole pause: the clock was set back. A start too early costs less than one an hour late. By
    # more than a second, because `failed_at + pause - failed_at` is not always `pause` among floats.
    return left if left <= pause + 1 else 0.0
