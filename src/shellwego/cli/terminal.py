"""How do this terminal, or these pipes, become those of a command far away?

With a terminal, ours is set raw, so that every key (Ctrl-C too) goes to the command's own, and a change of our window's
size follows. Whatever happens, our terminal is set back. In pipes, stdin, stdout and stderr stay three streams, and
Ctrl-C is sent as a signal; a second one leaves.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import termios
import tty
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shellwego.client import Cloud
    from shellwego.client.exec import Execution

_READ_BYTES = 1 << 16


async def run_here(
    cloud: Cloud, instance: str, command: Sequence[str], *, with_terminal: bool, with_input: bool
) -> int:
    """Run it with our standard streams; returns its exit status."""
    from shellwego.client.exec import Size

    size = shutil.get_terminal_size()
    async with cloud.exec.run(
        instance, command, terminal=Size(size.columns, size.lines) if with_terminal else None
    ) as execution:
        with contextlib.ExitStack() as stack:
            # Only now: while we connect, Ctrl-C is still ours.
            if with_terminal and sys.stdin.isatty():
                stack.enter_context(_raw(sys.stdin.fileno()))
            signals = stack.enter_context(_signals(with_terminal))
            helpers = [asyncio.create_task(_send_input(execution), name="exec-input")] if with_input else []
            if not with_input:
                await execution.end_input()
            helpers.append(asyncio.create_task(_send_signals(execution, signals), name="exec-signals"))
            try:
                async for printed in execution.output():
                    # In a thread: a full pipe must not keep us from answering the connection's pings.
                    await asyncio.to_thread(_write, 2 if printed.is_error else 1, printed.data)
            finally:
                for helper in helpers:
                    helper.cancel()
                await asyncio.gather(*helpers, return_exceptions=True)
        return execution.exit_status if execution.exit_status is not None else 1


async def _send_input(execution: Execution) -> None:
    async for data in _chunks(sys.stdin.fileno()):
        await execution.send_input(data)
    await execution.end_input()


async def _send_signals(execution: Execution, signals: asyncio.Queue[signal.Signals]) -> None:
    """Window sizes and, without a terminal of its own, Ctrl-C."""
    from shellwego.client.exec import Size

    while True:
        number = await signals.get()
        if number == signal.SIGWINCH:
            size = shutil.get_terminal_size()
            await execution.resize(Size(size.columns, size.lines))
        else:
            asyncio.get_running_loop().remove_signal_handler(number)  # The next one is for us.
            await execution.signal(number)


@contextlib.contextmanager
def _signals(with_terminal: bool) -> Iterator[asyncio.Queue[signal.Signals]]:
    """Those that are for the command. Caught from here on, not from when a task first runs."""
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[signal.Signals] = asyncio.Queue()
    watched = [signal.SIGWINCH, signal.SIGTERM, signal.SIGHUP] if with_terminal else [signal.SIGINT, signal.SIGTERM]
    for number in watched:
        loop.add_signal_handler(number, arrived.put_nowait, number)
    try:
        yield arrived
    finally:
        for number in watched:
            loop.remove_signal_handler(number)


async def _chunks(descriptor: int) -> AsyncIterator[bytes]:
    """What can be read, as it comes. One read at a time, so that a slow command slows down who writes to us."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            await _readable(loop, descriptor)
        except PermissionError:  # epoll has no regular files; reading one never blocks for long.
            data = await asyncio.to_thread(os.read, descriptor, _READ_BYTES)
        else:
            try:
                data = os.read(descriptor, _READ_BYTES)
            except OSError:  # The terminal hung up (EIO).
                return
        if not data:
            return
        yield data


async def _readable(loop: asyncio.AbstractEventLoop, descriptor: int) -> None:
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(descriptor, _resolve, ready)
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)


def _resolve(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


@contextlib.contextmanager
def _raw(descriptor: int) -> Iterator[None]:
    before = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
