"""An event loop in which waiting costs nothing.

When nobody has anything to do, time jumps to the next timer. Threads are real: while one works for somebody here
(a commit, a write of state), time stands still.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import selectors
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

EPOCH = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)
"""When virtual time begins."""


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._now = 0.0
        self._looks = 0
        self._in_threads = 0
        super().__init__(_Selector(self._idle))

    def time(self) -> float:
        return self._now

    def clock(self) -> dt.datetime:
        """The wall clock of this world. No two looks show the same time: things that happen one after the other do."""
        self._looks += 1
        return EPOCH + dt.timedelta(seconds=self._now, microseconds=self._looks)

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        future = super().run_in_executor(executor, func, *args)
        self._in_threads += 1
        future.add_done_callback(self._came_back)
        return future

    def _came_back(self, _future: object) -> None:
        self._in_threads -= 1

    def _idle(self, seconds: float | None) -> float:
        """How long to really wait. Called when nothing is ready."""
        if self._in_threads or seconds is None:
            return 1.0 if seconds is None else min(seconds, 1.0)
        self._now += seconds
        return 0.0


class _Selector(selectors.EpollSelector):
    def __init__(self, idle: Callable[[float | None], float]) -> None:
        super().__init__()
        self._idle = idle

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        return super().select(self._idle(timeout))
