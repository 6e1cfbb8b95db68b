"""What `shellwego apps list` says must be what is so."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shellwego.core.apps import AppStatus
from shellwego.core.deployments import DeploymentState
from shellwego.core.instances import InstanceGoal, InstanceState
from shellwego.core.status import AppFacts, SeenInstance, derive_status

S, G, D, I = AppStatus, InstanceGoal, DeploymentState, InstanceState  # noqa: E741 - a table is read by its columns


def web(*states: I, reason: str = "") -> tuple[SeenInstance, ...]:
    return tuple(SeenInstance("web", G.RUN, state, reason) for state in states)


def running(desired: int, *states: I, **more: object) -> AppFacts:
    return AppFacts(has_release=True, desired={"web": desired}, instances=web(*states), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("facts", "status", "why"),
    [
        pytest.param(AppFacts(), S.EMPTY, "nothing was deployed", id="new"),
        pytest.param(AppFacts(deployment=D.BUILDING), S.DEPLOYING, "", id="first build"),
        pytest.param(AppFacts(deployment=D.FAILED, reason="no"), S.EMPTY, "failed: no", id="first build failed"),
        pytest.param(
            AppFacts(deployment=D.FAILED, deployment_ran=True, reason="exited"),
            S.CRASHED,
            "exited",
            id="first release crashed",
        ),
        pytest.param(running(2, I.HEALTHY, I.HEALTHY), S.RUNNING, "", id="all healthy"),
        pytest.param(running(2, I.HEALTHY, I.STARTING), S.DEGRADED, "1 of 2", id="some healthy"),
        pytest.param(running(2, I.STARTING, I.PULLING), S.STARTING, "0 of 2", id="none yet"),
        pytest.param(running(1, I.CRASH_LOOP), S.CRASHED, "crash_loop", id="crash loop"),
        pytest.param(running(1, I.LOST), S.DEGRADED, "isn't connected", id="node away: perhaps still serving"),
        pytest.param(running(0), S.STOPPED, "scaled to 0", id="scaled to none"),
        pytest.param(
            running(1, I.HEALTHY, deployment=D.FAILED, reason="x"), S.RUNNING, "the release before", id="failed update"
        ),
        pytest.param(
            running(1, I.HEALTHY, I.STARTING, deployment=D.ROLLING), S.RUNNING, "deploying", id="update under way"
        ),
        pytest.param(
            running(1, I.CRASH_LOOP, deployment=D.BUILDING), S.DEPLOYING, "", id="a fix for what crashed is coming"
        ),
        pytest.param(AppFacts(stopped=True, has_release=True), S.STOPPED, "", id="stopped"),
        pytest.param(
            AppFacts(stopped=True, instances=web(I.STOPPING)), S.STOPPED, "1 instances are still", id="stopping"
        ),
        pytest.param(AppFacts(deleting=True, stopped=True), S.DELETING, "", id="deleting wins"),
    ],
)
def test_table(facts, status, why):
    found, reason = derive_status(facts)
    assert found is status
    assert why in reason


instances = st.lists(
    st.builds(
        SeenInstance,
        st.sampled_from(["web", "worker"]),
        st.sampled_from(list(G)),
        st.sampled_from(list(I)),
        st.just(""),
    ),
    max_size=6,
)
facts = st.builds(
    AppFacts,
    stopped=st.booleans(),
    deleting=st.booleans(),
    has_release=st.booleans(),
    desired=st.dictionaries(st.sampled_from(["web", "worker"]), st.integers(0, 3)),
    instances=instances,
    deployment=st.none() | st.sampled_from(list(D)),
    deployment_ran=st.booleans(),
)


@given(facts)
def test_running_is_never_said_while_something_is_missing(facts):
    status, _ = derive_status(facts)
    if status is S.RUNNING:
        for process, count in facts.desired.items():
            assert sum(i.serves for i in facts.instances if i.process == process) >= count


@given(facts)
def test_crashed_is_never_said_while_something_serves(facts):
    status, _ = derive_status(facts)
    if status is S.CRASHED and facts.has_release:
        assert not any(i.serves and i.process in facts.desired for i in facts.instances)
