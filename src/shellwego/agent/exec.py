"""How does a command run inside an instance for somebody far away?

Pumps bytes between one channel and one `ExecSession` until the command ends; then says its status. The other side's
end is the command's end: nobody is left to read what it says. Both directions wait for the slower side, and a signal
or a new window size never waits behind input that the command doesn't read.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import structlog

from shellwego.core.errors import ShellWeGoError
from shellwego.core.ids import InstanceId
from shellwego.drivers.runtime.port import ExecSession
from shellwego.kit.faults import fault_point, reach
from shellwego.protocol.channel import Channel
from shellwego.protocol.messages import ExecData, ExecRequest, ExecResize, ExecSignal, StreamEnd

log = structlog.get_logger()

SESSION_STARTED = fault_point("agent.exec.started")

Enter = Callable[[InstanceId, ExecRequest], Awaitable[ExecSession]]

_CHUNK_BYTES = 64 * 1024
_INPUT_CHUNKS = 64
_LARGEST_WINDOW = 1000


async def serve_exec(channel: Channel, request: ExecRequest, enter: Enter) -> None:
    """Run the request to its end. Raises ChannelClosed when the other side left; the command is ended then."""
    try:
        session = await enter(InstanceId(request.instance), request)
    except ShellWeGoError as error:
        await channel.send(StreamEnd(code=error.code, problem=str(error)))
        return
    try:
        await reach(SESSION_STARTED)
        status = await _pump(channel, session)
    finally:
        # Shielded: a connection that breaks, or an agent that ends, must not leave a stranger's shell running.
        await asyncio.shield(_close(session))
    await channel.send(StreamEnd(exit_code=status))


async def _pump(channel: Channel, session: ExecSession) -> int:
    keyboard: asyncio.Queue[bytes] = asyncio.Queue(_INPUT_CHUNKS)
    try:
        async with asyncio.TaskGroup() as group:
            listening = group.create_task(_listen(channel, session, keyboard), name="exec-listen")
            typing = group.create_task(_type(session, keyboard), name="exec-stdin")
            outputs = (
                group.create_task(_show(channel, "stdout", session.read_stdout), name="exec-stdout"),
                group.create_task(_show(channel, "stderr", session.read_stderr), name="exec-stderr"),
            )
            status = await session.wait()
            # What it said last is still on its way. A child that it left behind holds the outputs open: don't wait
            # for that one for ever.
            _, hanging = await asyncio.wait(outputs, timeout=2.0)
            for task in (listening, typing, *hanging):
                task.cancel()
    except ExceptionGroup as ended:
        raise ended.exceptions[0] from None
    return status


async def _listen(channel: Channel, session: ExecSession, keyboard: asyncio.Queue[bytes]) -> None:
    while True:
        match await channel.receive():
            case ExecData(channel="stdin", data=data):
                await keyboard.put(data)
            case ExecResize(columns=columns, rows=rows):
                if 0 < columns <= _LARGEST_WINDOW and 0 < rows <= _LARGEST_WINDOW:
                    with contextlib.suppress(OSError, ShellWeGoError):
                        await session.resize(columns=columns, rows=rows)
            case ExecSignal(number=number):
                if 0 < number < 65:
                    with contextlib.suppress(OSError, ShellWeGoError):
                        await session.kill(number)
            case _:
                pass  # A later version's message: nothing that we could be asked to do.


async def _type(session: ExecSession, keyboard: asyncio.Queue[bytes]) -> None:
    # A command that closed its input is no failure: it goes on, and what is typed goes nowhere.
    gone = False
    while True:
        data = await keyboard.get()
        if gone:
            continue
        try:
            await (session.write_stdin(data) if data else session.close_stdin())
        except (OSError, ShellWeGoError):
            gone = True


async def _show(channel: Channel, name: str, read: Callable[[], Awaitable[bytes]]) -> None:
    while data := await read():
        for start in range(0, len(data), _CHUNK_BYTES):
            piece = data[start : start + _CHUNK_BYTES]
            await channel.send(ExecData(channel="stderr" if name == "stderr" else "stdout", data=piece))


async def _close(session: ExecSession) -> None:
    try:
        async with asyncio.timeout(10):
            await session.close()
    except (OSError, ShellWeGoError, TimeoutError) as error:
        log.warning("exec.not_closed", error=repr(error))
