"""What a node does next: tables that a product manager can read, then properties that nobody can argue with."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.agent.factories import CRASHED, NOW, assignment, ended, goal, ins, record, running, spec

from shellwego.agent.plan import (
    Action,
    End,
    Goal,
    NodePlan,
    Record,
    Remove,
    Start,
    goal_after,
    note_failure,
    pause_seconds,
    plan_node,
)
from shellwego.core.ids import InstanceId
from shellwego.core.instances import ExitReason, ExitStatus
from shellwego.drivers.runtime.port import Observed

B = ins("b")


def only(plan: NodePlan) -> Action:
    assert len(plan.actions) == 1
    return plan.actions[0]


@pytest.mark.parametrize(
    ("wish", "observed", "records", "actions"),
    [
        pytest.param(goal("b"), [], [], [Start(B)], id="what should run and doesn't is started"),
        pytest.param(goal("b"), [running()], [record(run=NOW)], [], id="what runs is left alone"),
        pytest.param(goal("b"), [running()], [record()], [], id="a start that nobody saw the end of is adopted"),
        pytest.param(goal(), [running()], [], [], id="a stranger is left alone"),
        pytest.param(goal(absent=("b",)), [running()], [record(run=NOW)], [Remove(B, 3.0)], id="named: removed"),
        pytest.param(goal(absent=("b",)), [], [record()], [Remove(B, 3.0)], id="half removed: removed to the end"),
        pytest.param(goal(absent=("b",)), [], [], [], id="removing what is gone is done"),
        pytest.param(goal("b", absent=("b",)), [], [], [], id="in both lists: never started"),
        pytest.param(goal(), [], [record(removing=2.0)], [Remove(B, 2.0)], id="a removal goes on without its order"),
        pytest.param(goal("b"), [], [record(removing=2.0)], [Remove(B, 2.0)], id="a removal isn't called back"),
        pytest.param(goal(retained=("b",)), [], [record()], [Start(B)], id="retained: kept running"),
        pytest.param(goal("b"), [ended()], [record(run=NOW - 5)], [], id="after a crash: a pause first"),
        pytest.param(goal("b"), [ended()], [record(failures=1, failed_at=NOW - 1)], [Start(B)], id="after it: again"),
        pytest.param(
            goal("b"),
            [ended()],
            [record(failures=7, failed_at=NOW - 44)],
            [],
            id="a crash loop waits for most of a minute",
        ),
        pytest.param(
            goal("b"), [ended()], [record(failures=7, failed_at=NOW - 60)], [Start(B)], id="and is tried for ever"
        ),
        pytest.param(
            goal("b"),
            [ended()],
            [record(failures=2, failed_at=NOW + 999)],
            [Start(B)],
            id="a clock set back is no wait",
        ),
        pytest.param(
            goal("b"),
            [running()],
            [record(run=NOW, unhealthy="no answer")],
            [End(B, 1.0, ExitStatus(ExitReason.UNHEALTHY, message="no answer"))],
            id="unhealthy: ended, to be started again",
        ),
    ],
)
def test_the_next_step(wish: Goal, observed: list[Observed], records: list[Record], actions: list[Action]) -> None:
    plan = plan_node(wish, observed, {r.id: r for r in records}, NOW)
    assert list(plan.actions) == actions


def test_an_end_is_counted_once() -> None:
    """Otherwise one crash would look like a crash loop, and an app that recovers would wait a minute."""
    first = plan_node(goal("b"), [ended()], {B: record(run=NOW - 5)}, NOW)
    (noted,) = first.notes
    assert (noted.failures, noted.failed_at, noted.exit, noted.run) == (1, NOW, CRASHED, None)
    assert first.wake_in_seconds == 1.0
    second = plan_node(goal("b"), [ended()], {B: noted}, NOW + 0.5)
    assert second.is_noop
    assert second.wake_in_seconds == 0.5


def test_the_pause_doubles_and_ends_at_a_minute() -> None:
    assert [pause_seconds(record(failures=n)) for n in range(5)] == [0, 1, 2, 4, 8]
    assert all(45 <= pause_seconds(record(failures=n)) <= 60 for n in range(5, 100))


def test_those_that_fell_together_do_not_rise_together() -> None:
    """After an outage of something that all of them need, a node must not start all of them in one moment for ever."""
    fallen = [Record(InstanceId(f"ins_{n}"), "gvisor", "app", failures=9) for n in range(1000)]
    seconds = Counter(int(pause_seconds(each)) for each in fallen)
    assert len(seconds) >= 15
    assert max(seconds.values()) < 100
    assert [pause_seconds(each) for each in fallen] == [pause_seconds(each) for each in fallen]
    sums = Counter(int(sum(pause_seconds(replace(each, failures=n)) for n in (9, 10, 11))) for each in fallen)
    assert max(sums.values()) < 100, "nor the third time"


@given(st.floats(1.6e9, 2.2e9), st.integers(5, 100))
def test_no_moment_cuts_a_pause_short(moment: float, failures: int) -> None:
    """Floats: a moment and a pause, less the moment, may be a little more than the pause."""
    noted = note_failure(record(failures=failures - 1), CRASHED, moment)
    assert not plan_node(goal("b"), [ended()], {B: noted}, moment).actions


def test_an_instance_that_was_steady_begins_with_patience_again() -> None:
    before = record(run=NOW - 100, failures=4, healthy_since=NOW - 61)
    assert note_failure(before, CRASHED, NOW).failures == 1
    assert note_failure(replace(before, healthy_since=NOW - 59), CRASHED, NOW).failures == 5


def test_after_the_machine_restarted_everything_begins_at_once() -> None:
    """A reboot is nobody's failure; a hundred apps must not wait for it."""
    plan = plan_node(goal("b"), [], {B: record(run=NOW - 3600, healthy_since=NOW - 3500)}, NOW)
    assert only(plan) == Start(B)
    (noted,) = plan.notes
    assert noted.failures == 0
    assert noted.exit is not None
    assert noted.exit.reason is ExitReason.UNKNOWN


def test_what_vanishes_at_once_again_and_again_is_slowed_down() -> None:
    plan = plan_node(goal("b"), [], {B: record(run=NOW - 1)}, NOW)
    assert not plan.actions
    assert plan.notes[0].failures == 1


def test_an_end_for_a_bad_check_that_was_interrupted_is_told_as_such() -> None:
    """The agent was killed between ending it and writing so: the user still reads "health check failed"."""
    plan = plan_node(goal("b"), [], {B: record(run=NOW - 9, unhealthy="no answer")}, NOW)
    assert plan.notes[0].exit == ExitStatus(ExitReason.UNHEALTHY, message="no answer")


@pytest.mark.parametrize(
    ("exit", "told"),
    [
        (CRASHED, ExitReason.EXITED),
        (ExitStatus(ExitReason.OUT_OF_MEMORY), ExitReason.OUT_OF_MEMORY),
        (ExitStatus(ExitReason.SIGNALLED, 11), ExitReason.SIGNALLED),
        (ExitStatus(ExitReason.SIGNALLED, 9), ExitReason.UNHEALTHY),
        (ExitStatus(ExitReason.EXITED, 143), ExitReason.UNHEALTHY),
    ],
)
def test_a_check_that_only_noticed_a_crash_does_not_hide_it(exit: ExitStatus, told: ExitReason) -> None:
    """A user who reads "health check failed" looks for the wrong thing when the app ran out of memory."""
    plan = plan_node(goal("b"), [ended(exit=exit)], {B: record(run=NOW - 9, unhealthy="refused")}, NOW)
    assert plan.notes[0].exit is not None
    assert plan.notes[0].exit.reason is told


def test_a_running_instance_without_an_address_is_started_anew() -> None:
    """Its record was damaged: the address may be given to another, and two apps would answer for one."""
    assert isinstance(only(plan_node(goal("b"), [running()], {}, NOW)), End)


def test_a_restart_that_was_asked_for_ends_the_run_without_blame() -> None:
    wish = Goal(run=(spec("b", restart_token=2),))
    assert only(plan_node(wish, [running()], {B: record(run=NOW, restart_token=1)}, NOW)) == End(B, 1.0, None)
    waiting = record(restart_token=1, failures=9, failed_at=NOW)
    assert only(plan_node(wish, [ended()], {B: waiting}, NOW)) == Start(B)


def test_nothing_is_concluded_from_a_runtime_that_does_not_answer() -> None:
    """A hung runsc must not look like a hundred crashed apps."""
    plan = plan_node(goal("b", absent=("c",)), [], {B: record(run=NOW - 99)}, NOW, blind={"gvisor"})
    assert plan.is_noop
    assert plan.gone == ()  # What can't be seen may still be there.


def test_a_stranger_is_reported_as_unclaimed() -> None:
    plan = plan_node(goal("b", retained=("d",)), [running("b"), running("c"), running("d")], {}, NOW)
    assert plan.unclaimed == (ins("c"), ins("d"))


def test_a_busy_instance_gets_no_second_action_but_its_removal_is_known() -> None:
    assert plan_node(goal("b"), [], {}, NOW, busy={B}).is_noop
    assert only(plan_node(goal(absent=("b",)), [], {B: record()}, NOW, busy={B})) == Remove(B, 3.0)


def test_an_empty_server_makes_nothing_go_away() -> None:
    """Fault matrix, row 22: the instances of the old goal go on, crash and come back, and are reported."""
    before = goal_after(Goal(), assignment(500, spec("b"), spec("c")))
    after = goal_after(before, assignment(1))
    assert {s.id for s in after.retained} == {ins("b"), ins("c")}
    records = {ins(n): record(n, run=NOW - 99) for n in "bc"}
    plan = plan_node(after, [running("b"), running("c")], records, NOW)
    assert not plan.actions
    assert plan.unclaimed == (ins("b"), ins("c"))
    # Named at last, it goes; named to run again, it is claimed.
    third = goal_after(after, assignment(2, spec("c"), absent=(ins("b"),)))
    assert not third.retained


# Properties

NAMES = "bcdef"
names = st.sets(st.sampled_from(NAMES))
times = st.floats(NOW - 200, NOW + 200)
exits = st.sampled_from([None, CRASHED, ExitStatus(ExitReason.OUT_OF_MEMORY)])


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Goal, list[Observed], dict[InstanceId, Record]]:
    run, absent, retained = draw(names), draw(names), draw(names)
    wish = goal(*run, absent=tuple(absent), retained=tuple(retained - run))
    sandboxes = [draw(st.sampled_from([running, ended]))(name) for name in draw(names)]
    records = {}
    for index, name in enumerate(draw(names)):
        records[ins(name)] = record(
            name,
            address=draw(st.sampled_from([None, f"100.96.0.{index + 2}"])),
            run=draw(st.none() | times),
            healthy_since=draw(st.none() | times),
            unhealthy=draw(st.sampled_from(["", "no answer"])),
            restart_token=draw(st.integers(0, 1)),
            failures=draw(st.integers(0, 8)),
            failed_at=draw(st.none() | times),
            exit=draw(exits),
            removing=draw(st.sampled_from([None, None, None, 1.0])),
        )
    return wish, sandboxes, records


@given(worlds(), names)
def test_whatever_the_node_looks_like(
    world: tuple[Goal, list[Observed], dict[InstanceId, Record]], busy: set[str]
) -> None:
    wish, observed, records = world
    plan = plan_node(wish, observed, records, NOW, busy={ins(name) for name in busy})
    absent = {removal.id for removal in wish.absent}
    going = {record.id for record in records.values() if record.removing is not None}
    wanted = {s.id for s in (*wish.run, *wish.retained)}
    ids = [action.id for action in plan.actions]
    assert len(ids) == len(set(ids)), "at most one action per instance"
    for action in plan.actions:
        if isinstance(action, Remove):
            assert action.id in absent | going, "nothing is removed that nobody named"
        else:
            assert action.id in wanted - absent - going, "what is absent is never started"
            assert action.id not in {ins(name) for name in busy}
        if isinstance(action, Start):
            assert action.id not in {o.id for o in observed if o.running}, "what runs is not started"
    assert not set(plan.gone) & ({o.id for o in observed} | set(records))


@given(worlds())
def test_it_converges_and_then_stays_still(world: tuple[Goal, list[Observed], dict[InstanceId, Record]]) -> None:
    """Carried out a few times, a plan leads to where nothing is left to do: no instance flaps for ever."""
    wish, observed, records = world
    sandboxes = {o.id: o for o in observed}
    now = NOW
    for _ in range(8):
        plan = plan_node(wish, list(sandboxes.values()), records, now)
        if plan.is_noop and plan.wake_in_seconds is None:
            break
        records |= {note.id: note for note in plan.notes}
        for action in plan.actions:
            _apply(action, wish, sandboxes, records, now)
        now += max(61.0, plan.wake_in_seconds or 0.0)
    else:
        pytest.fail(f"still {plan}")
    absent = {removal.id for removal in wish.absent}
    going = {r.id for r in records.values() if r.removing is not None}
    assert not absent & set(sandboxes)
    for wanted in (*wish.run, *wish.retained):
        if wanted.id not in absent | going:
            sandbox = sandboxes.get(InstanceId(wanted.id))
            # Removals that outlived their order win over a later wish; everything else that is wanted runs.
            assert wanted.id not in records or sandbox is None or sandbox.running


def _apply(
    action: Action,
    wish: Goal,
    sandboxes: dict[InstanceId, Observed],
    records: dict[InstanceId, Record],
    now: float,
) -> None:
    wanted = {InstanceId(s.id): s for s in (*wish.retained, *wish.run)}
    match action:
        case Remove(id=id):
            sandboxes.pop(id, None)
            records.pop(id, None)
        case End(id=id, status=status):
            sandboxes.pop(id, None)
            before = records.get(id) or Record(id, "gvisor", "app")
            token = wanted[id].restart_token
            records[id] = note_failure(before, status or CRASHED, now)
            records[id] = replace(records[id], restart_token=token)
        case Start(id=id):
            sandboxes[id] = Observed(id, running=True, started_at=now)
            before = records.get(id) or Record(id, "gvisor", "app")
            records[id] = replace(
                before,
                run=now,
                address=before.address or "100.96.9.9",
                unhealthy="",
                restart_token=wanted[id].restart_token,
            )
