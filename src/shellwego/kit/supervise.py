"""Who notices when a loop that should live for ever ends?

Every long-lived task of ours runs inside `forever`, in a TaskGroup: it has a name and an owner, a failed
round is logged and tried again with backoff, and a quiet end is an error.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import structlog

from shellwego.kit.backoff import backoff_seconds

log = structlog.get_logger()

T = TypeVar("T")


class StoppedUnexpectedly(Exception):
    """A loop that should live for ever returned. A reconciler that quietly ended is the worst outage."""

    def __init__(self, name: str) -> None:
        super().__init__(f"The loop {name!r} ended although nobody stopped it.")


async def forever(
    name: str,
    once: Callable[[], Awaitable[object]],
    *,
    every_seconds: float,
    wake: asyncio.Event | None = None,
    limit_seconds: float = 30.0,
) -> None:
    """
    Run `once` again and again: at the latest every `every_seconds`, at once when `wake` is set.

    A round that raises is logged with the loop's name and tried again with backoff up to `limit_seconds`;
    events don't shorten that wait, or a failing round woken by its own events would spin.
    """
    failures = 0
    while True:
        if wake is not None:
            wake.clear()  # Before the round: an event that arrives during it earns another round.
        try:
            await once()
        except Exception as error:  # The loop must outlive every round; the log keeps the reason.
            failures += 1
            wait = backoff_seconds(failures, limit=limit_seconds, jitter=random.random)
            log.warning(
                "loop.round_failed",
                loop=name,
                error=repr(error),
                failures=failures,
                next_try_seconds=round(wait, 1),
                exc_info=failures == 1,
            )
            await asyncio.sleep(wait)
            continue
        failures = 0
        if wake is None:
            await asyncio.sleep(every_seconds)
        else:
            try:
                async with asyncio.timeout(every_seconds):
                    await wake.wait()
            except TimeoutError:
                pass


async def apart(work: Coroutine[Any, Any, T], *, name: str) -> T:
    """
    Await `work` as a task of its own: for who goes on when it fails. A TaskGroup of which a task fails in the very
    moment in which its owner is cancelled raises the failure alone (before Python 3.13,
    https://github.com/python/cpython/issues/116720), and the owner would never hear that it was to end.
    """
    task = asyncio.create_task(work, name=name)
    try:
        await asyncio.wait([task])
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # Seen, so that asyncio doesn't report it as lost.
    return task.result()
