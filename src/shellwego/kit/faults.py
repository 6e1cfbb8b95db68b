"""Where can a test end, fail or delay us?

A fault point is a named place before a step with an effect. Unarmed it costs one dictionary look-up. Tests
arm points by the environment, since the process under test is a real one:

    SHELLWEGO_FAULTS="agent.start.created=exit;edge.apply.mapped=delay:2;server.deploy.placed=fail"

`exit` ends the process at once as SIGKILL would (status 137), `fail` raises InjectedFault, `delay:SECONDS`
waits. With `@FILE` appended (`exit@/tmp/x`), a point acts once: it creates FILE and stays quiet while it exists.
Every name in use is declared with `fault_point` at import time, so a test can enumerate them all.

With SHELLWEGO_FAULTS_DIR set, a point can also be armed in processes that run already: DIR/POINT holds the action, is
renamed to POINT.taken by the one process that reaches it first, and acts once. `exit-all` takes along what the same
parent started, as when server, agent and edge die together; `kill:PID,PID` ends only those. Without the variable
nobody looks at any file.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path
from typing import NewType

FaultPoint = NewType("FaultPoint", str)

_declared: set[FaultPoint] = set()


class InjectedFault(Exception):
    """Raised by an armed fault point; never seen outside tests."""


def fault_point(name: str) -> FaultPoint:
    """Declare a point, once, at module level. Raises ValueError for a name that exists already."""
    point = FaultPoint(name)
    if point in _declared:
        raise ValueError(f"fault point {name!r} is declared twice")
    _declared.add(point)
    return point


def declared_points() -> frozenset[FaultPoint]:
    """Every point declared by the modules imported so far."""
    return frozenset(_declared)


async def reach(point: FaultPoint) -> None:
    """Pass the point: nothing happens unless a test armed it."""
    action = _armed.get(point)
    if action is None and _directory is not None:
        action = _take(Path(_directory) / point)
    if action is None:
        return
    verb, _, once_file = action.partition("@")
    if once_file:
        try:
            Path(once_file).touch(exist_ok=False)
        except FileExistsError:
            return
    verb, _, argument = verb.partition(":")
    if verb in {"exit-all", "kill"}:
        for pid in map(int, argument.split(",")) if verb == "kill" else _siblings():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    if verb in {"exit", "exit-all"}:
        os._exit(137)
    if verb == "fail":
        raise InjectedFault(point)
    if verb == "delay":
        await asyncio.sleep(float(argument))


def _take(path: Path) -> str | None:
    taken = path.with_name(f"{path.name}.taken")
    try:
        path.rename(taken)
    except FileNotFoundError:
        return None
    return taken.read_text().strip()


def _siblings() -> list[int]:
    """The other children of our parent."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[1]) == os.getppid() and int(path.parent.name) != os.getpid():
                found.append(int(path.parent.name))
    return found


def _parse(text: str) -> dict[FaultPoint, str]:
    pairs = (entry.split("=", 1) for entry in text.split(";") if entry)
    return {FaultPoint(name): action for name, action in pairs}


_armed = _parse(os.environ.get("SHELLWEGO_FAULTS", ""))
_directory = os.environ.get("SHELLWEGO_FAULTS_DIR")
