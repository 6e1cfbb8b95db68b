"""A step of a rollout may neither cause an outage nor get stuck."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shellwego.control.orchestration.rollout import RolloutGoal, RolloutStep, Seen, judge_rollout, plan_rollout
from shellwego.core.ids import InstanceId, ReleaseId
from shellwego.core.instances import (
    ExitReason,
    Instance,
    InstanceGoal,
    InstanceState,
    looping_words,
    starting_words,
    unhealthy_words,
    waiting_words,
)

V1, V2 = ReleaseId("v1"), ReleaseId("v2")
S, G = InstanceState, InstanceGoal


def instances(release: ReleaseId, state: InstanceState, names: str, goal: InstanceGoal = G.RUN) -> list[Instance]:
    return [Instance(InstanceId(name), release, "web", goal, state) for name in names]


def healthy(release: ReleaseId, names: str) -> list[Instance]:
    return instances(release, S.HEALTHY, names)


GOAL = RolloutGoal(V2, {"web": 3}, surge=1)


@pytest.mark.parametrize(
    ("goal", "fleet", "step"),
    [
        pytest.param(GOAL, [], RolloutStep(start={"web": 3}), id="a first deployment starts all at once"),
        pytest.param(GOAL, healthy(V1, "abc"), RolloutStep(start={"web": 1}), id="an old fleet gets one newcomer"),
        pytest.param(
            GOAL,
            healthy(V1, "abc") + instances(V2, S.STARTING, "d"),
            RolloutStep(),
            id="an unhealthy newcomer earns nobody's removal",
        ),
        pytest.param(
            GOAL,
            healthy(V1, "abc") + healthy(V2, "d"),
            RolloutStep(drain=(InstanceId("c"),)),
            id="a healthy newcomer relieves one old instance",
        ),
        pytest.param(
            GOAL,
            instances(V1, S.CRASH_LOOP, "abc") + instances(V2, S.STARTING, "d"),
            RolloutStep(),
            id="even a crashed old fleet stays until the new one has proven itself",
        ),
        pytest.param(
            GOAL,
            instances(V1, S.CRASH_LOOP, "ab") + healthy(V1, "c") + healthy(V2, "d"),
            RolloutStep(stop=(InstanceId("b"),), start={}),
            id="the failing leave before the serving",
        ),
        pytest.param(
            RolloutGoal(V1, {"web": 1}),
            healthy(V1, "abc"),
            RolloutStep(drain=(InstanceId("b"), InstanceId("c"))),
            id="scaling down drains the surplus",
        ),
        pytest.param(
            RolloutGoal(None),
            healthy(V1, "a") + instances(V1, S.STARTING, "b"),
            RolloutStep(drain=(InstanceId("a"),), stop=(InstanceId("b"),)),
            id="an app that should run nothing loses all",
        ),
        pytest.param(
            RolloutGoal(V1, {"web": 1}),
            [*healthy(V1, "a"), replace(healthy(V1, "b")[0], goal=G.DRAIN, drained=True)],
            RolloutStep(stop=(InstanceId("b"),)),
            id="what has drained is stopped",
        ),
        pytest.param(
            RolloutGoal(V1, {"web": 1}),
            instances(V1, S.LOST, "a"),
            RolloutStep(start={"web": 1}),
            id="a lost instance is replaced, not retired",
        ),
    ],
)
def test_table(goal: RolloutGoal, fleet: list[Instance], step: RolloutStep) -> None:
    assert plan_rollout(goal, fleet) == step


def _instance(number: int, release: ReleaseId, process: str, state: InstanceState, goal: InstanceGoal) -> Instance:
    return Instance(InstanceId(f"i{number}"), release, process, goal, state, drained=number % 2 == 0)


any_instance = st.builds(
    _instance,
    st.integers(0, 999),
    st.sampled_from([V1, V2]),
    st.sampled_from(["web", "worker"]),
    st.sampled_from(list(S)),
    st.sampled_from(list(G)),
)
any_fleet = st.lists(any_instance, max_size=12, unique_by=lambda i: i.id)
any_goal = st.builds(
    RolloutGoal,
    st.sampled_from([V1, V2, None]),
    st.dictionaries(st.sampled_from(["web", "worker"]), st.integers(0, 4)),
    st.sampled_from([None, 1, 2]),
)


def serving(fleet: list[Instance], process: str) -> int:
    return sum(i.serves_traffic and i.process == process for i in fleet)


def apply(step: RolloutStep, fleet: list[Instance], serial: list[int], goal: RolloutGoal) -> list[Instance]:
    changed = [
        replace(i, goal=G.STOP) if i.id in step.stop else replace(i, goal=G.DRAIN) if i.id in step.drain else i
        for i in fleet
    ]
    for process, count in step.start.items():
        for _ in range(count):
            serial[0] += 1
            assert goal.release is not None
            changed.append(Instance(InstanceId(f"n{serial[0]}"), goal.release, process, G.RUN, S.PENDING))
    return changed


@given(any_fleet, any_goal)
def test_never_drains_below_the_promise(fleet: list[Instance], goal: RolloutGoal) -> None:
    """Whatever the fleet looks like, a step may not cause an outage."""
    after = apply(plan_rollout(goal, fleet), fleet, [0], goal)
    for process in ("web", "worker"):
        promised = goal.counts.get(process, 0) if goal.release else 0
        assert serving(after, process) >= min(serving(fleet, process), promised)


@given(any_fleet, any_goal)
def test_never_starts_more_than_count_and_surge(fleet: list[Instance], goal: RolloutGoal) -> None:
    """A rollout may not eat the node's memory."""
    step = plan_rollout(goal, fleet)
    for process, count in step.start.items():
        wanted = goal.counts[process]
        surge = max(1, -(-wanted // 2)) if goal.surge is None else goal.surge
        running = [i for i in fleet if i.process == process and i.goal is G.RUN and not i.state.is_terminal]
        assert len([i for i in running if i.state is not S.LOST]) + count <= wanted + surge


@given(any_fleet, any_goal)
def test_converges_and_then_stays_still(fleet: list[Instance], goal: RolloutGoal) -> None:
    """With a world that does as it's told, every fleet reaches its goal; then nothing is touched any more."""
    serial = [0]
    fleet = [i for i in fleet if i.state is not S.LOST]
    for _ in range(60):
        step = plan_rollout(goal, fleet)
        if step.is_noop and all(i.state is S.HEALTHY and i.goal is G.RUN for i in fleet):
            break
        fleet = [
            replace(i, state=S.HEALTHY, drained=True)
            for i in apply(step, fleet, serial, goal)
            if i.goal is not G.STOP and not i.state.is_terminal
        ]
    counts = Counter(i.process for i in fleet if i.release == goal.release)
    assert plan_rollout(goal, fleet).is_noop
    assert counts == Counter({p: c for p, c in goal.counts.items() if c and goal.release})
    assert len(fleet) == counts.total()


@given(any_fleet, any_goal)
def test_what_was_started_once_is_not_started_again(fleet: list[Instance], goal: RolloutGoal) -> None:
    """A controller killed after it wrote its step asks again: no process type may get more instances than it should."""
    serial = [0]
    after = fleet
    for _ in range(3):
        after = apply(plan_rollout(goal, after), after, serial, goal)
    for process in ("web", "worker"):
        wanted = goal.counts.get(process, 0) if goal.release else 0

        def fresh(instances: list[Instance], process: str = process) -> int:
            return sum(
                i.process == process and i.release == goal.release and i.goal is G.RUN
                and not i.state.is_terminal and i.state is not S.LOST
                for i in instances
            )  # fmt: skip

        assert fresh(after) <= max(wanted, fresh(fleet))


def seen(fleet: list[Instance], **facts: object) -> list[Seen]:
    return [Seen(i, **facts) for i in fleet]  # type: ignore[arg-type]


def test_done_only_when_new_ones_serve_and_old_ones_left() -> None:
    """`--wait` must not return while an old instance still gets requests."""
    assert not judge_rollout(GOAL, seen(healthy(V2, "abc") + healthy(V1, "d")), out_of_time=False).done
    assert not judge_rollout(GOAL, seen(healthy(V2, "ab")), out_of_time=False).done
    assert judge_rollout(GOAL, seen(healthy(V2, "abc")), out_of_time=False).done


def test_a_release_that_keeps_ending_is_given_up_with_its_reason() -> None:
    broken = replace(instances(V2, S.BACKOFF, "d")[0], restarts=3)
    verdict = judge_rollout(
        GOAL,
        [*seen(healthy(V1, "abc")), Seen(broken, ExitReason.EXITED, 3, "exited with status 3; next start ...")],
        out_of_time=False,
    )
    assert verdict.failed
    assert verdict.culprit == "d"
    assert verdict.why == "web keeps ending: exited with status 3"


@pytest.mark.parametrize(
    ("state", "reason", "last", "why"),
    [
        (S.BACKOFF, ExitReason.EXITED, "exited with status 3", "web keeps ending: exited with status 3"),
        (S.STARTING, ExitReason.EXITED, starting_words("nothing there"), "web keeps ending: exited with status 3"),
        (S.BACKOFF, ExitReason.OUT_OF_MEMORY, "out of memory", "web keeps ending: out of memory"),
        (S.BACKOFF, ExitReason.FAILED_TO_START, "failed to start: no /x", "web keeps ending: failed to start: no /x"),
        (S.CRASH_LOOP, ExitReason.FAILED_TO_START, looping_words("failed to start: no /x"),
         "web keeps ending: failed to start: no /x"),
        (S.UNHEALTHY, ExitReason.UNHEALTHY, unhealthy_words("GET / answered: 404"),
         "web never became healthy: GET / answered: 404"),
        (S.BACKOFF, ExitReason.UNHEALTHY, unhealthy_words("no answer"), "web never became healthy: no answer"),
        (S.CRASH_LOOP, ExitReason.UNHEALTHY, looping_words(unhealthy_words("no answer")),
         "web never became healthy: no answer"),
        (S.STARTING, ExitReason.UNHEALTHY, starting_words("no answer"), "web never became healthy: no answer"),
        (S.STARTING, ExitReason.UNHEALTHY, starting_words(""), "web never became healthy"),
        (S.PULLING, ExitReason.UNHEALTHY, "pulling 3 of 90 MB", "web never became healthy"),
    ],
)  # fmt: skip
def test_who_reads_why_it_was_given_up_hears_of_no_next_start(
    state: S, reason: ExitReason, last: str, why: str
) -> None:
    """There is none; "next start after a pause of 8 s" has people wait for it."""
    words = waiting_words(last, pause_seconds=8, failures=4) if state is S.BACKOFF else last
    broken = replace(instances(V2, state, "d")[0], restarts=3)
    verdict = judge_rollout(GOAL, [Seen(broken, reason, 3, words)], out_of_time=False)
    assert verdict.why == why


def test_one_bad_start_is_not_a_verdict() -> None:
    """A database that came up a second later must not fail the deployment."""
    unlucky = replace(instances(V2, S.BACKOFF, "d")[0], restarts=1)
    assert not judge_rollout(GOAL, [Seen(unlucky, ExitReason.EXITED, 1, "exited")], out_of_time=False).failed


def test_time_runs_out_with_the_last_word_of_what_was_waited_for() -> None:
    waiting = instances(V2, S.PULLING, "d")
    verdict = judge_rollout(GOAL, seen(waiting, reason="pulling 3 of 90 MB"), out_of_time=True)
    assert verdict.failed
    assert "pulling 3 of 90 MB" in verdict.why
