"""How does everything that runs for an instance come to its end?

By its control group, where it has one; by the folder that its command lines name, where a start was cut off before
that. Safe to repeat and to interrupt anywhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable

from shellwego.core.errors import StartFailed
from shellwego.drivers.runtime.bundle import Bundle
from shellwego.drivers.runtime.cgroups import CGroups
from shellwego.drivers.runtime.processes import find_by_argument, mark_process, wait_for_end

KILL_SECONDS = 10.0
_QUIET_LOOKS, _LOOK_SECONDS = 2, 0.02
_FIRST_POLL_SECONDS, _LONGEST_POLL_SECONDS = 0.002, 0.1


async def kill_group(groups: CGroups, name: str) -> None:
    """End every process of a control group. Raises StartFailed when the kernel doesn't let one go."""
    deadline = time.monotonic() + KILL_SECONDS
    wait = _FIRST_POLL_SECONDS
    while True:
        marks = [mark for pid in groups.kill(name) if (mark := mark_process(pid)) is not None]
        if not any(mark.is_alive() for mark in marks):
            return
        await wait_for_end(marks, timeout_seconds=1.0)
        if time.monotonic() > deadline:
            raise StartFailed(f"Processes of instance {name} could not be ended.")
        await asyncio.sleep(wait)
        wait = min(wait * 2, _LONGEST_POLL_SECONDS)


async def kill_unrecorded(bundle: Bundle) -> None:
    """
    End a start that no agent waits for any more. Its monitor may be about to fork, and the runtime to create the
    sandbox; all of them name the folder, so we look until nobody does and nobody new has no name yet, twice: one
    look can miss a child that is born while it goes on.
    """
    deadline, quiet = time.monotonic() + KILL_SECONDS, 0
    before: frozenset[int] = frozenset()
    while quiet < _QUIET_LOOKS and time.monotonic() < deadline:
        found, nameless = await asyncio.to_thread(find_by_argument, f"--bundle={bundle.path}", str(bundle.path))
        for mark in found:
            mark.send(signal.SIGKILL)
        await wait_for_end(found, timeout_seconds=KILL_SECONDS)
        quiet = quiet + 1 if not found and nameless <= before else 0
        before = nameless
        await asyncio.sleep(_LOOK_SECONDS)


async def remove_group(groups: CGroups, name: str, *, within_seconds: float = KILL_SECONDS) -> None:
    """Remove a control group, or leave it when it stays busy that long."""
    # A group is busy until the kernel has taken its last dead process apart, which it tells nobody.
    await until(lambda: groups.remove(name), within_seconds=within_seconds)


async def until(fact: Callable[[], bool], *, within_seconds: float) -> bool:
    """Look for a fact that nothing tells of. Whether it came true in time."""
    wait = _FIRST_POLL_SECONDS
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_seconds):
            while not fact():
                await asyncio.sleep(wait)
                wait = min(wait * 2, _LONGEST_POLL_SECONDS)
            return True
    return False
