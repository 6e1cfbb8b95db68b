"""What does a runtime do when there is nothing to run?

The port's promises kept in memory, for tests that are about something else. Beyond the port it does what a kernel
would: `crash` ends a sandbox, `fail_next_start` refuses one, `write_log` is the app speaking, and the commands that
`exec` runs are Python functions (`program`).
"""

from __future__ import annotations

import asyncio
import datetime as dt
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from shellwego.core.errors import NotFound, StartFailed
from shellwego.core.ids import InstanceId
from shellwego.core.instances import ExitReason, ExitStatus
from shellwego.drivers.runtime.port import Observed, Workload
from shellwego.kit.clock import Clock, utc_now

COMMAND_NOT_FOUND = 127

Program = Callable[["FakeExec"], Awaitable[int]]
"""A command: reads `stdin()`, speaks by `emit`, returns its exit status."""


@dataclass(slots=True)
class _Sandbox:
    workload: Workload
    started_at: float
    exit: ExitStatus | None = None
    log: int | None = None
    """A descriptor, which goes on in a renamed file as the real ones' do."""
    sessions: list[FakeExec] = field(default_factory=list)

    def end(self, status: ExitStatus) -> None:
        self.exit = status
        if self.log is not None:
            os.close(self.log)
            self.log = None


class FakeRuntime:
    """A RuntimeDriver in memory. `writes_logs` makes it open each workload's log file, as the real ones do."""

    def __init__(
        self,
        *,
        name: str = "fake",
        program: Program | None = None,
        writes_logs: bool = False,
        clock: Clock = utc_now,
    ) -> None:
        self.name = name
        self.program: Program = program or small_shell
        self.starts: list[Workload] = []
        """Every workload that was really started, in order: what a test asks about restarts."""
        self._writes_logs = writes_logs
        self._clock = clock
        self._sandboxes: dict[InstanceId, _Sandbox] = {}
        self._refusals: list[str] = []

    # What a kernel would do

    def crash(self, id: InstanceId, status: ExitStatus | int = 1) -> None:
        """End a running sandbox, with an exit status of its own or as told."""
        if isinstance(status, int):
            status = ExitStatus(ExitReason.EXITED, status)
        self._running(id).end(status)

    def fail_next_start(self, reason: str) -> None:
        """The next start raises StartFailed with this reason. Several calls make several starts fail."""
        self._refusals.append(reason)

    def vanish(self) -> None:
        """The machine restarts: nothing that ran is there any more."""
        for sandbox in self._sandboxes.values():
            sandbox.end(ExitStatus(ExitReason.UNKNOWN))
        self._sandboxes.clear()

    def write_log(self, id: InstanceId, text: str, *, stream: str = "stdout") -> None:
        """The app says something: one CRI line per line of `text`."""
        log = self._running(id).log
        assert log is not None, "FakeRuntime(writes_logs=True) keeps logs"
        for line in text.splitlines():
            os.write(log, f"{cri_time(self._clock())} {stream} F {line}\n".encode())

    def get_workload(self, id: InstanceId) -> Workload:
        """What a running sandbox was started with. Raises NotFound."""
        return self._running(id).workload

    # The port

    async def ensure_running(self, workload: Workload) -> None:
        found = self._sandboxes.get(workload.id)
        if found is not None and found.exit is None:
            return
        if self._refusals:
            raise StartFailed(self._refusals.pop(0))
        sandbox = _Sandbox(workload, self._clock().timestamp())
        if self._writes_logs:
            sandbox.log = _open_log(workload)
        self._sandboxes[workload.id] = sandbox
        self.starts.append(workload)

    async def ensure_absent(self, id: InstanceId, *, grace_seconds: float) -> None:
        sandbox = self._sandboxes.pop(id, None)
        if sandbox is None:
            return
        sandbox.end(ExitStatus(ExitReason.SIGNALLED, 15))
        for session in sandbox.sessions:
            await session.close()

    async def observe(self) -> list[Observed]:
        return [
            Observed(id, running=sandbox.exit is None, started_at=sandbox.started_at, exit=sandbox.exit)
            for id, sandbox in self._sandboxes.items()
        ]

    async def exec(
        self,
        id: InstanceId,
        args: tuple[str, ...],
        *,
        tty: bool,
        env: Mapping[str, str],
        columns: int = 80,
        rows: int = 24,
    ) -> FakeExec:
        sandbox = self._running(id)
        if not args:
            raise StartFailed("There is no command to run.")
        session = FakeExec(args, tty, {**sandbox.workload.env, **env}, columns, rows, self.program)
        sandbox.sessions.append(session)
        return session

    async def reopen_log(self, id: InstanceId) -> None:
        sandbox = self._running(id)
        if sandbox.log is not None:
            os.close(sandbox.log)
            sandbox.log = _open_log(sandbox.workload)

    def _running(self, id: InstanceId) -> _Sandbox:
        sandbox = self._sandboxes.get(id)
        if sandbox is None or sandbox.exit is not None:
            raise NotFound("running instance", id)
        return sandbox


class FakeExec:
    """An ExecSession whose command is a Python function."""

    def __init__(
        self,
        args: tuple[str, ...],
        tty: bool,
        env: Mapping[str, str],
        columns: int,
        rows: int,
        program: Program,
    ) -> None:
        self.args, self.tty, self.env = args, tty, env
        self.size = (columns, rows)
        self.signals: list[int] = []
        self._stdin: asyncio.Queue[bytes] = asyncio.Queue()
        self._out: asyncio.Queue[bytes] = asyncio.Queue()
        self._err: asyncio.Queue[bytes] = asyncio.Queue()
        self._status: int | None = None
        self._task = asyncio.create_task(self._run(program), name=f"fake-exec-{args[0]}")

    # What a program uses

    async def stdin(self) -> bytes:
        """The next bytes written to it, b"" at the end."""
        chunk = await self._stdin.get()
        if not chunk:
            self._stdin.put_nowait(b"")
        return chunk

    def emit(self, chunk: bytes, *, stderr: bool = False) -> None:
        """Say something; a terminal has one output."""
        if chunk:
            (self._err if stderr and not self.tty else self._out).put_nowait(chunk)

    # The port

    async def read_stdout(self) -> bytes:
        return await _read(self._out)

    async def read_stderr(self) -> bytes:
        return b"" if self.tty else await _read(self._err)

    async def write_stdin(self, data: bytes) -> None:
        if data:
            self._stdin.put_nowait(data)

    async def close_stdin(self) -> None:
        self._stdin.put_nowait(b"")

    async def resize(self, *, columns: int, rows: int) -> None:
        self.size = (columns, rows)

    async def kill(self, signal: int) -> None:
        self.signals.append(signal)
        if self._status is None:
            self._status = 128 + signal
            self._task.cancel()

    async def wait(self) -> int:
        await asyncio.wait([self._task])
        assert self._status is not None
        return self._status

    async def close(self) -> None:
        await self.kill(9)
        await self.wait()

    async def _run(self, program: Program) -> None:
        try:
            status = await program(self)
            if self._status is None:
                self._status = status
        except asyncio.CancelledError:
            if self._status is None:  # Not our own `kill`: somebody above is being cancelled.
                self._status = 137
                raise
        finally:
            self._out.put_nowait(b"")
            self._err.put_nowait(b"")


async def small_shell(session: FakeExec) -> int:
    """The few commands that tests use, as /bin has them."""
    match session.args:
        case ("true", *_):
            return 0
        case ("false", *_):
            return 1
        case ("echo", *words):
            session.emit(" ".join(words).encode() + b"\n")
            return 0
        case ("cat",):
            while chunk := await session.stdin():
                session.emit(chunk)
            return 0
        case ("env",):
            session.emit("".join(f"{key}={value}\n" for key, value in session.env.items()).encode())
            return 0
        case ("sleep", seconds):
            await asyncio.sleep(float(seconds))
            return 0
        case ("sh", "-c", script) if script.startswith("exit "):
            return int(script.removeprefix("exit "))
        case ("sh", "-c", "echo out; echo err >&2"):
            session.emit(b"out\n")
            session.emit(b"err\n", stderr=True)
            return 0
        case ("stty", "size"):
            columns, rows = session.size
            session.emit(f"{rows} {columns}\n".encode())
            return 0
    session.emit(f"{session.args[0]}: not found\n".encode(), stderr=True)
    return COMMAND_NOT_FOUND


async def _read(queue: asyncio.Queue[bytes]) -> bytes:
    chunk = await queue.get()
    if not chunk:
        queue.put_nowait(b"")  # The end stays the end, however often it is read.
    return chunk


def _open_log(workload: Workload) -> int:
    workload.log_path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(workload.log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


def cri_time(moment: dt.datetime) -> str:
    """RFC 3339 with nine digits, as the CRI log format has it."""
    return moment.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + "000+00:00"
