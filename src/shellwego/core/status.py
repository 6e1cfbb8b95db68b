"""What is an app doing, in one word and one sentence?

Derived from what was seen, never stored, so it can't disagree with the instances that a user lists beside it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from shellwego.core.apps import AppStatus
from shellwego.core.deployments import DeploymentState
from shellwego.core.instances import InstanceGoal, InstanceState


@dataclass(frozen=True, slots=True)
class SeenInstance:
    process: str
    goal: InstanceGoal
    state: InstanceState
    reason: str = ""

    @property
    def serves(self) -> bool:
        return self.state.serves_traffic and self.goal is not InstanceGoal.STOP


@dataclass(frozen=True, slots=True)
class AppFacts:
    """
    `desired` counts wanted instances by process type of the current release (of the one on its way, if there is no
    current one). `deployment` is the newest one's state; `step` and `reason` are its words.
    """

    stopped: bool = False
    deleting: bool = False
    has_release: bool = False
    desired: Mapping[str, int] = field(default_factory=dict)
    instances: Collection[SeenInstance] = ()
    deployment: DeploymentState | None = None
    deployment_ran: bool = False
    """The newest deployment got as far as a release, so that its code ran."""
    step: str = ""
    reason: str = ""


def derive_status(facts: AppFacts) -> tuple[AppStatus, str]:
    """The status and, where it isn't plain, why."""
    if facts.deleting:
        return AppStatus.DELETING, _ending(facts) or "about to be gone"
    if facts.stopped:
        return AppStatus.STOPPED, _ending(facts)
    under_way = facts.deployment is not None and not facts.deployment.is_terminal
    if not facts.has_release:
        return _without_release(facts, under_way=under_way)
    wanted = sum(facts.desired.values())
    if wanted == 0:
        return AppStatus.STOPPED, "scaled to 0 instances"
    serving = {process: sum(i.serves for i in facts.instances if i.process == process) for process in facts.desired}
    reached = sum(min(count, serving[process]) for process, count in facts.desired.items())
    if reached == wanted:
        return AppStatus.RUNNING, _since_failure(facts) if not under_way else f"deploying: {facts.step or 'queued'}"
    if any(serving.values()):
        return AppStatus.DEGRADED, f"{reached} of {wanted} instances healthy{_worst(facts)}"
    wished = [i for i in facts.instances if i.goal is InstanceGoal.RUN]
    if wished and all(i.state is InstanceState.LOST for i in wished):
        return AppStatus.DEGRADED, "its node isn't connected; it may well go on running there"
    failing = [i for i in wished if i.state.is_failing]
    if failing and len(failing) == len(wished) and not under_way:
        return AppStatus.CRASHED, failing[0].reason or failing[0].state.value
    if under_way:
        return AppStatus.DEPLOYING, facts.step
    return AppStatus.STARTING, f"0 of {wanted} instances healthy{_worst(facts)}"


def _without_release(facts: AppFacts, *, under_way: bool) -> tuple[AppStatus, str]:
    if under_way:
        return AppStatus.DEPLOYING, facts.step
    if facts.deployment is DeploymentState.FAILED:
        why = f"the last deployment failed: {facts.reason}"
        return (AppStatus.CRASHED if facts.deployment_ran else AppStatus.EMPTY), why
    return AppStatus.EMPTY, "nothing was deployed yet"


def _since_failure(facts: AppFacts) -> str:
    if facts.deployment is DeploymentState.FAILED:
        return f"the last deployment failed, the release before it serves: {facts.reason}"
    return ""


def _ending(facts: AppFacts) -> str:
    left = sum(not i.state.is_terminal for i in facts.instances)
    return f"{left} instances are still ending" if left else ""


def _worst(facts: AppFacts) -> str:
    """Why the most telling of the others isn't healthy."""
    for wanted in (InstanceState.CRASH_LOOP, InstanceState.BACKOFF, InstanceState.UNHEALTHY, InstanceState.LOST):
        for instance in facts.instances:
            if instance.state is wanted and instance.goal is InstanceGoal.RUN:
                return f"; {instance.process}: {instance.reason or wanted.value}"
    return ""
