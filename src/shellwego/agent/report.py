"""How does a node say what it runs?

One `InstanceReport` from an instance's wish, its record and what is being done with it: a pure function, so that the
state a user reads follows from facts alone. Records are kept in step with what was observed before this is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from shellwego.agent.plan import CRASH_LOOP_FAILURES, Record, pause_seconds
from shellwego.core.instances import (
    ExitReason,
    InstanceState,
    looping_words,
    starting_words,
    unhealthy_words,
    waiting_words,
)
from shellwego.protocol.messages import InstanceReport, InstanceSpec

REASON_CHARACTERS = 1000


class Phase(StrEnum):
    """What is being done with an instance at this moment."""

    WAITING = "waiting"  # for its turn
    PULLING = "pulling"
    STARTING = "starting"
    ENDING = "ending"  # this run, so that another can begin
    REMOVING = "removing"


@dataclass(frozen=True, slots=True)
class Activity:
    phase: Phase
    detail: str = ""


def describe(
    spec: InstanceSpec,
    record: Record | None,
    activity: Activity | None,
    *,
    check_detail: str = "",
    last_lines: Sequence[str] = (),
) -> InstanceReport:
    """What the server is told of an instance that should run. `check_detail` is the health check's last word."""
    state, reason = _state(record, activity, check_detail)
    exit = record.exit if record else None
    running = record is not None and record.run is not None
    return InstanceReport(
        id=spec.id,
        state=state.value,
        reason=printable(reason, REASON_CHARACTERS),
        address=record.address if record else None,
        port=spec.port,
        restarts=record.restarts if record else 0,
        exit_reason=exit.reason.value if exit else None,
        exit_code=exit.code if exit and exit.reason in {ExitReason.EXITED, ExitReason.SIGNALLED} else None,
        started_at=record.run if record and running else None,
        last_lines=list(last_lines) if state.is_failing else [],
    )


def describe_removal(id: str, *, gone: bool, detail: str = "") -> InstanceReport:
    """What the server is told of an instance that should be absent."""
    state = InstanceState.STOPPED if gone else InstanceState.STOPPING
    return InstanceReport(id=id, state=state.value, reason=printable(detail, REASON_CHARACTERS))


def printable(text: str, characters: int) -> str:
    """The text on one line, safe to show in a terminal: control characters escaped, cut to so many characters."""
    cut = text if len(text) <= characters else text[: characters - 1] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)


def _state(record: Record | None, activity: Activity | None, check_detail: str) -> tuple[InstanceState, str]:
    state = InstanceState
    if record is None:
        return (state.PULLING, activity.detail) if activity and activity.phase is Phase.PULLING else (state.PENDING, "")
    looping = record.failures >= CRASH_LOOP_FAILURES and record.healthy_since is None
    last = str(record.exit) if record.exit else ""

    if record.run is not None:
        if record.unhealthy:
            return state.UNHEALTHY, unhealthy_words(record.unhealthy)
        if activity is not None and activity.phase is Phase.ENDING:
            return state.STARTING, activity.detail  # Said before the signal is sent: it must lose its traffic first.
        if record.healthy_since is not None:
            return state.HEALTHY, f"last end: {last}" if last else ""
        if looping:
            return state.CRASH_LOOP, looping_words(last)
        return state.STARTING, starting_words(check_detail)

    if activity is not None and not looping:
        match activity.phase:
            case Phase.PULLING:
                return state.PULLING, activity.detail
            case Phase.STARTING | Phase.ENDING:
                return state.STARTING, activity.detail
    if record.failures:
        words = waiting_words(last, pause_seconds=pause_seconds(record), failures=record.failures)
        return (state.CRASH_LOOP if looping else state.BACKOFF), words
    if record.exit is not None or record.restarts:
        return state.STARTING, last
    return state.PENDING, "waiting for its turn" if activity else ""
