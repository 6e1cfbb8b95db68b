"""Whoever works below a name does so alone, and to the end of what a thread has begun."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from shellwego.drivers.images.locks import locked, try_lock, unlock
from shellwego.drivers.images.threads import in_thread


async def test_a_lock_is_held_by_one(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first = try_lock(path)
    assert first is not None
    assert try_lock(path) is None
    waiting = asyncio.ensure_future(hold(path))
    await asyncio.sleep(0)
    assert not waiting.done()
    unlock(first, path)
    async with asyncio.timeout(5):
        await waiting
    assert not path.exists()


async def hold(path: Path) -> None:
    async with locked(path):
        assert try_lock(path) is None


async def test_a_cancelled_caller_waits_for_its_thread() -> None:
    """Otherwise the thread writes into whatever file has that descriptor next."""
    steps: list[str] = []
    started, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def work() -> None:
        loop.call_soon_threadsafe(started.set)
        go_on.wait(10)
        steps.append("thread")

    async def caller() -> None:
        try:
            await in_thread(work)
        finally:
            steps.append("caller")

    task = asyncio.ensure_future(caller())
    await started.wait()
    task.cancel()
    await asyncio.sleep(0)
    assert steps == []
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert steps == ["thread", "caller"]
