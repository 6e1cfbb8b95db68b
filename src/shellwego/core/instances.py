"""What may an instance be doing, and what comes next?

An instance is one copy of one process type of one release on one node. The control plane writes its goal; the
agent of its node alone writes its state. Every allowed move stands in ALLOWED; a property test walks them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from shellwego.core.ids import InstanceId, NodeId, ReleaseId


class InstanceGoal(StrEnum):
    """What the control plane wants of an instance. It only ever moves downwards."""

    RUN = "run"  # run and, once healthy, serve
    DRAIN = "drain"  # run on, but get no new request
    STOP = "stop"  # be gone


class InstanceState(StrEnum):
    """What the agent saw. `reason` beside it says why in words."""

    PENDING = "pending"  # assigned to a node, nothing there yet
    PULLING = "pulling"  # its image is on the way
    STARTING = "starting"  # its process exists and isn't healthy yet
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"  # runs, and its check failed too often
    BACKOFF = "backoff"  # ended or could not start; the next start waits its turn
    CRASH_LOOP = "crash_loop"  # the same, again and again
    STOPPING = "stopping"  # asked to end, within its grace
    STOPPED = "stopped"  # gone from its node, for good
    LOST = "lost"  # its node hasn't been heard of; written by the control plane alone

    @property
    def is_terminal(self) -> bool:
        return self is InstanceState.STOPPED

    @property
    def serves_traffic(self) -> bool:
        return self is InstanceState.HEALTHY

    @property
    def is_failing(self) -> bool:
        """It tried and could not; waiting longer may or may not help."""
        return self in {InstanceState.BACKOFF, InstanceState.CRASH_LOOP, InstanceState.UNHEALTHY}


_S = InstanceState
_LIVE = frozenset(_S) - {_S.PENDING}

ALLOWED: dict[InstanceState, frozenset[InstanceState]] = {
    # A report can arrive after several moves were made, so what is allowed is reachability, not single steps;
    # what is forbidden is coming back from the dead and being "pending" once a node has acted.
    _S.PENDING: _LIVE,
    _S.PULLING: _LIVE - {_S.PULLING},
    _S.STARTING: _LIVE - {_S.STARTING},
    _S.HEALTHY: _LIVE - {_S.HEALTHY},
    _S.UNHEALTHY: _LIVE - {_S.UNHEALTHY},
    _S.BACKOFF: _LIVE - {_S.BACKOFF},
    _S.CRASH_LOOP: _LIVE - {_S.CRASH_LOOP},
    _S.STOPPING: frozenset({_S.STOPPED, _S.LOST}),
    _S.LOST: _LIVE - {_S.LOST},
    _S.STOPPED: frozenset(),
}


def may_move(now: InstanceState, then: InstanceState) -> bool:
    """Whether a report may change the state so. Staying is always allowed."""
    return now is then or then in ALLOWED[now]


class ExitReason(StrEnum):
    """Why a sandbox ended."""

    EXITED = "exited"  # by itself, with a status
    SIGNALLED = "signalled"
    OUT_OF_MEMORY = "out_of_memory"
    FAILED_TO_START = "failed_to_start"
    UNHEALTHY = "unhealthy"  # we ended it: its check failed too often
    UNKNOWN = "unknown"  # nobody was there to see (the machine went down, say)


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How the last run of an instance ended. `code` is the exit status, or the signal's number."""

    reason: ExitReason
    code: int = 0
    message: str = ""

    def __str__(self) -> str:
        match self.reason:
            case ExitReason.EXITED:
                return f"exited with status {self.code}"
            case ExitReason.SIGNALLED:
                return f"ended by signal {self.code}"
            case ExitReason.OUT_OF_MEMORY:
                return "out of memory"
            case ExitReason.FAILED_TO_START:
                return f"failed to start: {self.message}"
            case ExitReason.UNHEALTHY:
                return unhealthy_words(self.message)
            case ExitReason.UNKNOWN:
                return self.message or "ended unseen"


_UNHEALTHY = "health check failed"
_NOT_YET = "not healthy yet"
_PAUSE = "; next start after a pause of "
_AGAIN = f"; started again, {_NOT_YET}"


def unhealthy_words(check: str) -> str:
    """A check that failed too often, and what it saw."""
    return f"{_UNHEALTHY}: {check}"


def starting_words(check: str) -> str:
    """A program that runs and has not been healthy, and what the check saw so far."""
    return f"{_NOT_YET}: {check}" if check else _NOT_YET


def looping_words(last: str) -> str:
    """A program that ended again and again, how it did last, and runs once more."""
    return f"{last}{_AGAIN}"


def waiting_words(last: str, *, pause_seconds: float, failures: int) -> str:
    """How an instance ended, and when it is started again."""
    row = f" ({failures} failures in a row)" if failures > 1 else ""
    return f"{last}{_PAUSE}{pause_seconds:.0f} s{row}"


def end_of(words: str) -> str:
    """The end alone: to whoever has given the instance up, the next start is no news."""
    return words.partition(_PAUSE)[0].partition(_AGAIN)[0]


def check_of(words: str) -> str:
    """What the health check saw, if that is what the words tell."""
    heading, _, check = end_of(words).partition(": ")
    return check if heading in {_UNHEALTHY, _NOT_YET} else ""


@dataclass(frozen=True, slots=True)
class Instance:
    """One instance as the planners see it."""

    id: InstanceId
    release: ReleaseId
    process: str
    goal: InstanceGoal
    state: InstanceState
    node: NodeId | None = None
    restarts: int = 0
    drained: bool = False
    """The edge has seen its last request end, or its grace time pass, since the goal became DRAIN."""

    @property
    def serves_traffic(self) -> bool:
        return self.goal is InstanceGoal.RUN and self.state.serves_traffic
