"""What is the next step of this rollout?

`plan_rollout` brings an app's instances to one release and one count per process type, a step at a time, and never
asks how it got here: a deployment, a scale, a failed deployment's way back and a replaced node are the same question.
`judge_rollout` says whether that is done or can't be. The deployments controller applies both.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from shellwego.core.ids import InstanceId, ReleaseId
from shellwego.core.instances import ExitReason, ExitStatus, Instance, InstanceGoal, InstanceState, check_of, end_of

FAILED_STARTS = 3
"""So many ends before it was ever healthy, and a new release is given up: one may be bad luck, three are not."""


@dataclass(frozen=True, slots=True)
class RolloutGoal:
    """
    `counts` is how many instances each process type of `release` should have; a type that isn't named should have
    none. `release` is None for an app that should run nothing. At most `surge` instances of a type are added
    beyond its count while others leave; None means half the count, at least one.
    """

    release: ReleaseId | None
    counts: Mapping[str, int] = field(default_factory=dict)
    surge: int | None = None


@dataclass(frozen=True, slots=True)
class RolloutStep:
    """What to do now. `start` counts new instances by process type; the rest names instances."""

    start: Mapping[str, int] = field(default_factory=dict)
    drain: tuple[InstanceId, ...] = ()
    """Serving ones: they get no new request from now on and go when their last one has ended."""
    stop: tuple[InstanceId, ...] = ()
    """Ones that serve nobody, or have drained."""

    @property
    def is_noop(self) -> bool:
        return not (self.start or self.drain or self.stop)


def plan_rollout(goal: RolloutGoal, instances: Collection[Instance]) -> RolloutStep:
    """
    The next step. Applying it to its own result converges and then stays still; a step never leaves fewer serving
    instances than the smaller of what served before and what should.
    """
    present = [i for i in instances if not i.state.is_terminal and i.goal is not InstanceGoal.STOP]
    start: dict[str, int] = {}
    drain: list[InstanceId] = []
    stop = [i.id for i in present if i.goal is InstanceGoal.DRAIN and (i.drained or not i.state.serves_traffic)]
    for process in sorted({i.process for i in present} | set(goal.counts)):
        count = goal.counts.get(process, 0) if goal.release is not None else 0
        running = [i for i in present if i.process == process and i.goal is InstanceGoal.RUN]
        fresh = [i for i in running if i.release == goal.release]
        stale = [i for i in running if i.release != goal.release]

        # An instance of a lost node is replaced but not retired: if its node comes back, it serves at once.
        reachable = [i for i in fresh if i.state is not InstanceState.LOST]
        surge = max(1, -(-count // 2)) if goal.surge is None else goal.surge
        room = count + (surge if stale else 0) - len(reachable) - len(stale)
        wanted = max(0, min(count - len(reachable), room))
        if wanted:
            start[process] = wanted

        kept_fresh = _best(fresh, count)
        # Old instances leave one for one as new ones become healthy, whatever state the old ones are in: until the
        # new release has proven itself, even a crashed old one is what a failed deployment goes back to.
        proven = sum(i.serves_traffic for i in kept_fresh)
        kept_stale = _best(stale, max(0, count - proven))
        kept = {i.id for i in kept_fresh} | {i.id for i in kept_stale}
        for leaving in (i for i in running if i.id not in kept):
            (drain if leaving.serves_traffic else stop).append(leaving.id)
    return RolloutStep(start=start, drain=tuple(drain), stop=tuple(stop))


def _best(instances: Sequence[Instance], count: int) -> list[Instance]:
    """The `count` most worth keeping: those that serve, then those on their way, then the failing; older first."""
    return sorted(instances, key=_worth)[:count]


def _worth(instance: Instance) -> int:
    if instance.serves_traffic:
        return 0
    if instance.state is InstanceState.LOST:
        return 3
    return 2 if instance.state.is_failing else 1


@dataclass(frozen=True, slots=True)
class Seen:
    """An instance with what the verdict on its release needs."""

    instance: Instance
    exit_reason: ExitReason | None = None
    exit_code: int | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a rollout stands. `culprit` is the instance whose log tells why it failed."""

    done: bool = False
    failed: bool = False
    why: str = ""
    culprit: InstanceId | None = None
    step: str = ""


def judge_rollout(goal: RolloutGoal, seen: Collection[Seen], *, out_of_time: bool) -> Verdict:
    """
    Whether the goal is reached (every new instance healthy, every old one out of service), or never will be: a new
    instance that keeps ending, or never got healthy, condemns its release. Time alone condemns last of all.
    """
    fresh = [s for s in seen if s.instance.release == goal.release and s.instance.goal is InstanceGoal.RUN]
    for s in fresh:
        if s.instance.state is InstanceState.HEALTHY or not s.exit_reason:
            continue
        never_healthy = s.exit_reason is ExitReason.UNHEALTHY and s.instance.restarts >= 1
        if never_healthy or s.instance.restarts >= FAILED_STARTS or s.instance.state is InstanceState.CRASH_LOOP:
            return Verdict(failed=True, why=_given_up(s), culprit=s.instance.id)
    healthy = {
        process: sum(s.instance.serves_traffic for s in fresh if s.instance.process == process)
        for process in goal.counts
    }
    missing = {p: count - healthy[p] for p, count in goal.counts.items() if healthy[p] < count}
    total = sum(goal.counts.values())
    step = f"{total - sum(missing.values())} of {total} instances healthy"
    leaving = [
        s
        for s in seen
        if s.instance.release != goal.release
        and s.instance.goal is not InstanceGoal.STOP
        and not s.instance.state.is_terminal
    ]
    if not missing and not leaving:
        return Verdict(done=True, step=step)
    if out_of_time:
        waiting = next((s for s in fresh if not s.instance.serves_traffic), None)
        why = f"out of time with {step}"
        if waiting is not None and waiting.reason:
            why += f"; the last word of one that isn't: {end_of(waiting.reason)}"
        return Verdict(failed=True, why=why, culprit=waiting.instance.id if waiting else None, step=step)
    if not missing:
        step += f", {len(leaving)} old still leaving"
    return Verdict(step=step)


def _given_up(seen: Seen) -> str:
    """What an instance keeps doing, as the reason of a deployment: nothing comes after it, so no pause and no count."""
    what = end_of(seen.reason)
    match seen.exit_reason:
        case ExitReason.UNHEALTHY:
            # Its words may be those of the next start, which tell of a pull, say; better none than wrong ones.
            check = check_of(seen.reason)
            return f"{seen.instance.process} never became healthy" + (f": {check}" if check else "")
        case ExitReason.EXITED | ExitReason.SIGNALLED | ExitReason.OUT_OF_MEMORY as reason:
            # Its own words may be those of the next start, which has begun already.
            what = str(ExitStatus(reason, seen.exit_code or 0))
        case _:
            pass
    return f"{seen.instance.process} keeps ending: {what or 'nobody saw how'}"
