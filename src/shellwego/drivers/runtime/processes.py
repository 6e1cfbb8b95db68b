"""Is this process still the one we started, and when does it end?

A pid is reused; a pid with its start time isn't. Waiting is done on pidfds, which the event loop watches: nobody polls.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from shellwego.drivers.runtime.smallfiles import read_small

_START_TIME = 19  # Field 22 of proc_pid_stat(5), counted from the field after the name.
_STATE = 0
_SANDBOX_GROUP = b"/ins_"


@dataclass(frozen=True, slots=True)
class ProcessMark:
    """A process for ever: its pid, and when it started in clock ticks since boot."""

    pid: int
    ticks: int

    def is_alive(self) -> bool:
        """Whether it runs still. A zombie has ended: only its parent hasn't looked yet."""
        found = _stat(self.pid)
        return found is not None and found == (self.ticks, True)

    def open(self) -> int | None:
        """A pidfd of it, or None if it has ended."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return None
        if self.is_alive():  # Asked after opening: from now on the descriptor can't mean another.
            return descriptor
        os.close(descriptor)
        return None

    def send(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        descriptor = self.open()
        if descriptor is None:
            return
        try:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, number)
        finally:
            os.close(descriptor)


def mark_process(pid: int) -> ProcessMark | None:
    """The mark of what has that pid now."""
    found = _stat(pid)
    return None if found is None else ProcessMark(pid, found[0])


def mark_of_file(path: Path) -> ProcessMark | None:
    """The mark of what a pid file names now."""
    try:
        return mark_process(int(path.read_text()))
    except (OSError, ValueError):
        return None


async def wait_for_end(marks: Iterable[ProcessMark], *, timeout_seconds: float) -> bool:
    """Whether all of them ended in time."""
    descriptors = [descriptor for mark in marks if (descriptor := mark.open()) is not None]
    try:
        async with asyncio.timeout(timeout_seconds):
            for descriptor in descriptors:
                await wait_readable(descriptor)
    except TimeoutError:
        return False
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    return True


async def wait_readable(descriptor: int) -> None:
    """Return when the descriptor can be read."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(descriptor, _wake, ready)
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


def find_by_argument(*wanted: str) -> tuple[list[ProcessMark], frozenset[int]]:
    """
    Every process that has one of these arguments in its command line, and the pids of those without a command line: one
    in the middle of execve(2) has none for a moment. (gVisor's stubs never have; they are told by their control group.)
    Slow, for what left no other trace.
    """
    sought = {argument.encode() for argument in wanted}
    found, nameless = [], set()
    for entry in os.scandir("/proc"):
        if not entry.name.isdecimal():
            continue
        line = read_small(f"/proc/{entry.name}/cmdline")
        if line == b"":
            if _SANDBOX_GROUP not in (read_small(f"/proc/{entry.name}/cgroup") or b""):
                nameless.add(int(entry.name))
        elif line and not sought.isdisjoint(line.split(b"\0")):
            mark = mark_process(int(entry.name))
            if mark is not None:
                found.append(mark)
    return found, frozenset(nameless)


def _stat(pid: int) -> tuple[int, bool] | None:
    text = read_small(f"/proc/{pid}/stat")
    if text is None:
        return None
    fields = text.rpartition(b")")[2].split()
    return int(fields[_START_TIME]), fields[_STATE] not in (b"Z", b"X")
