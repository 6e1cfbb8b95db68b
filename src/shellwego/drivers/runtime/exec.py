"""How does a person, or a health check, get a command into a running sandbox?

The runtime's own `exec` stays in the foreground with pipes of ours, or with a terminal of ours: its exit status is the
command's, signals that it gets go to the command, and what nobody reads stays in the pipe, so a command that floods
waits instead of filling our memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import signal
import struct
import termios
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from shellwego.core.errors import EngineMissing, StartFailed
from shellwego.kit.commands import Command

_CHUNK = 65536
_END_OF_TRANSMISSION = b"\x04"
_START_SECONDS = 30.0
_POLL_SECONDS = 0.005
_LAST_WORDS = 2000


@dataclass(frozen=True, slots=True)
class ExecPlan:
    """One command to run: how, the file that appears once it runs, and how to end all of it from outside."""

    command: Command
    pid_file: Path
    kill: Callable[[], Awaitable[None]]
    forget: Callable[[], None]


class OciExec:
    """An ExecSession over `runsc exec` or `runc exec`."""

    def __init__(self, plan: ExecPlan, process: asyncio.subprocess.Process, pipes: _Pipes) -> None:
        self._plan = plan
        self._process = process
        self._pipes = pipes
        self._closed = False

    @classmethod
    async def begin(cls, plan: ExecPlan, *, tty: bool, columns: int, rows: int) -> OciExec:
        """Returns once the command runs. Raises StartFailed with the runtime's words if it can't."""
        pipes = _terminal(columns, rows) if tty else _three_pipes()
        # setsid makes our terminal the controlling one, which is what turns Ctrl-C and a new size into signals.
        command = ("setsid", "--ctty", *plan.command) if tty else plan.command
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=pipes.theirs[0],
                stdout=pipes.theirs[1],
                stderr=pipes.theirs[2],
                start_new_session=not tty,
            )
        except FileNotFoundError as error:
            pipes.close()
            plan.forget()
            raise EngineMissing(Path(plan.command[0]).name, "it is not there.") from error
        finally:
            for descriptor in set(pipes.theirs):
                os.close(descriptor)
        session = cls(plan, process, pipes)
        try:
            await session._until_started()
        except BaseException:
            await session.close()
            raise
        return session

    async def read_stdout(self) -> bytes:
        return await self._pipes.stdout.read()

    async def read_stderr(self) -> bytes:
        return b"" if self._pipes.stderr is None else await self._pipes.stderr.read()

    async def write_stdin(self, data: bytes) -> None:
        await self._pipes.stdin.write(data)

    async def close_stdin(self) -> None:
        if self._pipes.is_terminal:
            await self._pipes.stdin.write(_END_OF_TRANSMISSION)
        else:
            self._pipes.stdin.close()

    async def resize(self, *, columns: int, rows: int) -> None:
        if self._pipes.is_terminal and not self._pipes.stdin.closed:
            _set_size(self._pipes.stdin.descriptor, columns, rows)

    async def kill(self, signal: int) -> None:
        if self._process.returncode is None:
            await self._send(signal)

    async def wait(self) -> int:
        status = await self._process.wait()
        return status if status >= 0 else 128 - status

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            if self._process.returncode is None:
                with contextlib.suppress(Exception):  # The client must end whatever the runtime answers.
                    await self._plan.kill()
        finally:
            self._pipes.close()
            if self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    self._process.kill()
            await self._process.wait()
            self._plan.forget()

    async def _send(self, number: int) -> None:
        if number in (signal.SIGKILL, signal.SIGSTOP):
            await self._plan.kill()  # These two would hit the client alone, which can't pass them on.
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def _until_started(self) -> None:
        """The runtime writes the pid file once the command runs; if it ends without, its words say why."""
        try:
            async with asyncio.timeout(_START_SECONDS):
                while not self._plan.pid_file.exists():
                    if self._process.returncode is not None:
                        raise StartFailed(_reason(await self._last_words()))
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            raise StartFailed(f"The command did not start within {_START_SECONDS:g} s.") from None

    async def _last_words(self) -> str:
        pipe = self._pipes.stderr or self._pipes.stdout
        text = b""
        while len(text) < _LAST_WORDS and (chunk := await pipe.read()):
            text += chunk
        return text.decode(errors="replace").strip()


class _Pipe:
    """One end of ours. Reads and writes wait in the event loop; closing it wakes them."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self.descriptor = descriptor
        self.closed = False
        self._waiting: set[asyncio.Future[None]] = set()

    async def read(self) -> bytes:
        while not self.closed:
            try:
                return os.read(self.descriptor, _CHUNK)
            except BlockingIOError:
                await self._wait(writing=False)
            except OSError as error:
                if error.errno == errno.EIO:  # A terminal whose other end is closed.
                    return b""
                raise
        return b""

    async def write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest and not self.closed:
            try:
                rest = rest[os.write(self.descriptor, rest) :]
            except BlockingIOError:
                await self._wait(writing=True)
            except OSError as error:
                if error.errno in (errno.EPIPE, errno.EIO):
                    return  # The command reads no more, which is its right.
                raise

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        loop = asyncio.get_running_loop()
        loop.remove_reader(self.descriptor)
        loop.remove_writer(self.descriptor)
        os.close(self.descriptor)
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)

    async def _wait(self, *, writing: bool) -> None:
        loop = asyncio.get_running_loop()
        add, remove = (loop.add_writer, loop.remove_writer) if writing else (loop.add_reader, loop.remove_reader)
        ready: asyncio.Future[None] = loop.create_future()
        self._waiting.add(ready)
        add(self.descriptor, _wake, ready)
        try:
            await ready
        finally:
            self._waiting.discard(ready)
            if not self.closed:
                remove(self.descriptor)


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


@dataclass(frozen=True, slots=True)
class _Pipes:
    stdin: _Pipe
    stdout: _Pipe
    stderr: _Pipe | None
    theirs: tuple[int, int, int]
    is_terminal: bool = False

    def close(self) -> None:
        for pipe in (self.stdin, self.stdout, self.stderr):
            if pipe is not None:
                pipe.close()


def _three_pipes() -> _Pipes:
    in_read, in_write = os.pipe()
    out_read, out_write = os.pipe()
    err_read, err_write = os.pipe()
    return _Pipes(_Pipe(in_write), _Pipe(out_read), _Pipe(err_read), (in_read, out_write, err_write))


def _terminal(columns: int, rows: int) -> _Pipes:
    master, slave = os.openpty()
    _set_size(master, columns, rows)
    # Two descriptors of one terminal: each has its own place in the event loop.
    return _Pipes(_Pipe(master), _Pipe(os.dup(master)), None, (slave, slave, slave), is_terminal=True)


def _set_size(descriptor: int, columns: int, rows: int) -> None:
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def _reason(words: str) -> str:
    """The runtimes wrap the one fact in four layers of their own."""
    for known, said in (
        ("executable file not found", "The command was not found in the instance."),
        ("no such file or directory", "The command, or its interpreter, was not found in the instance."),
        ("permission denied", "The command is not executable."),
    ):
        if known in words.lower():
            return said
    return f"The command could not be started: {words or 'the runtime did not say why.'}"
