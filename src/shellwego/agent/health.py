"""Can an instance serve?

One light task per running instance asks, by `core.health`'s rules, through the data plane (never the host's own
network) or by a command inside. Until the first success it asks often, so that a deployment takes no longer than its
app; afterwards in the check's own rhythm. What an app answers is hostile: a check reads a bounded number of bytes
within a bounded time and follows nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Protocol
from urllib.parse import quote

import structlog

from shellwego.core.errors import ShellWeGoError
from shellwego.core.ids import InstanceId
from shellwego.core.redaction import Redaction
from shellwego.drivers.runtime.port import ExecSession
from shellwego.protocol.messages import HealthSpec

log = structlog.get_logger()

ALIVE_SECONDS = 2.0
"""
A process type that listens on nothing is healthy once it has lived this long, and one that is checked by its port alone
once that has been open so long, or has answered a request: most broken ones end at once.
"""
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])(?: [^\r\n]*)?\r?\n")
_STATUS_BYTES = 4096
_SERVER_ERROR = 500
_BODY_BYTES = 64 * 1024
_OUTPUT_BYTES = 4096
_COMMANDS_AT_ONCE = 4
_SAFE_IN_PATH = "/?:@!$&'()*+,;=-._~%"


@dataclass(frozen=True, slots=True)
class Target:
    """
    One run of one instance. `healthy` says that this run has succeeded before, as after the agent's restart. What a
    check command prints passes through `redact` before anybody is told.
    """

    id: InstanceId
    run: float
    spec: HealthSpec
    address: IPv4Address
    port: int | None
    healthy: bool
    redact: Redaction = field(default_factory=Redaction)


class Dial(Protocol):
    async def __call__(self, address: IPv4Address, port: int, *, timeout_seconds: float) -> socket.socket: ...


Enter = Callable[[InstanceId, tuple[str, ...]], Awaitable[ExecSession]]
"""Start a command inside an instance."""

OnVerdict = Callable[[Target, bool, str], None]
"""Told when a run first succeeds (True) and when it failed for good (False, with the last problem)."""


class HealthMonitor:
    """Checks every instance it is told to watch, until it is told to forget it or the verdict is "unhealthy"."""

    def __init__(
        self,
        tasks: asyncio.TaskGroup,
        *,
        dial: Dial,
        enter: Enter,
        on_verdict: OnVerdict,
        on_doubt: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_doubt` is called when a healthy instance fails once: it may have ended, which is worth a look."""
        self._tasks, self._dial, self._enter = tasks, dial, enter
        self._on_verdict, self._on_doubt = on_verdict, on_doubt
        self._watched: dict[InstanceId, tuple[Target, asyncio.Task[None]]] = {}
        self._words: dict[InstanceId, str] = {}
        self._commands = asyncio.Semaphore(_COMMANDS_AT_ONCE)

    def watch(self, target: Target) -> None:
        """Check this run from now on. Watching the same run again changes nothing."""
        known = self._watched.get(target.id)
        if known is not None:
            if known[0].run == target.run:
                return
            self.forget(target.id)
        task = self._tasks.create_task(self._keep_checking(target), name=f"health-{target.id}")
        self._watched[target.id] = (target, task)

    def watches(self, id: InstanceId, run: float) -> bool:
        known = self._watched.get(id)
        return known is not None and known[0].run == run

    def forget(self, id: InstanceId) -> None:
        """Stop checking. Safe to repeat."""
        known = self._watched.pop(id, None)
        self._words.pop(id, None)
        if known is not None:
            known[1].cancel()

    @property
    def watched(self) -> frozenset[InstanceId]:
        return frozenset(self._watched)

    def last_word(self, id: InstanceId) -> str:
        """What the last check of an instance that isn't healthy yet said."""
        return self._words.get(id, "")

    async def _keep_checking(self, target: Target) -> None:
        loop = asyncio.get_running_loop()
        spec = target.spec
        # Wall time only to learn the age, once: what follows must not jump with the clock.
        began = loop.time() - min(max(0.0, time.time() - target.run), 365 * 86400.0)
        healthy, failures, count_from = target.healthy, 0, began + spec.start_period_seconds
        listening_since: float | None = None
        if healthy:
            # After the agent's restart a hundred checks must not fall into one moment.
            await asyncio.sleep(random.random() * spec.interval_seconds)  # noqa: S311 - spreads load, hides nothing
        while True:
            problem = await self._check(target, healthy=healthy, age=loop.time() - began)
            if spec.kind == "tcp" and not healthy:
                # Some servers listen before they load the app (gunicorn does): a port that is open proves little. One
                # that answers proves that the app is loaded, one that stays open that it didn't end right after.
                is_new = listening_since is None
                listening_since = None if problem else listening_since or loop.time()
                answers = not problem and is_new and await self._answers(target)
                if listening_since is not None and not answers and loop.time() - listening_since < ALIVE_SECONDS:
                    self._words[target.id] = f"port {target.port} is open; waiting to see that it stays so"
                    await asyncio.sleep(_first_rhythm(target, loop.time() - began))
                    continue
            if problem is None:
                failures = 0
                self._words.pop(target.id, None)
                if not healthy:
                    healthy = True
                    self._on_verdict(target, True, "")
                if _listens_on_nothing(target):
                    return  # Whether it runs is observed anyway.
                await asyncio.sleep(spec.interval_seconds)
                continue
            self._words[target.id] = problem
            if healthy and failures == 0:
                self._on_doubt()
            # Before its first success an instance is asked often, but its failures count in the check's own rhythm.
            if healthy or loop.time() >= count_from:
                failures += 1
                count_from = loop.time() + spec.interval_seconds
                if failures >= max(1, spec.retries):
                    self._on_verdict(target, False, problem)
                    return
            await asyncio.sleep(spec.interval_seconds if healthy else _first_rhythm(target, loop.time() - began))

    async def _check(self, target: Target, *, healthy: bool, age: float) -> str | None:
        """None for success, else what was wrong, for the user."""
        if _listens_on_nothing(target):
            return None if age >= ALIVE_SECONDS else "starting"
        try:
            async with asyncio.timeout(target.spec.timeout_seconds):
                if target.spec.kind == "command":
                    return await self._check_command(target)
                return await self._check_port(target, healthy=healthy)
        except TimeoutError:
            return f"{_what(target)} did not answer within {target.spec.timeout_seconds:g} s"
        except ConnectionRefusedError:
            return (
                f"nothing accepts connections on port {target.port}. "
                f"The app must listen on 0.0.0.0, on the port that the variable PORT names"
            )
        except OSError as error:
            return f"{_what(target)}: {error.strerror or error}".lower()
        except ShellWeGoError as error:
            return str(error)
        except Exception as error:  # A check's own bug must neither end the agent nor condemn the app in silence.
            log.exception("health.check_broke", instance=target.id)
            return f"the check itself broke: {error!r}"

    async def _check_port(self, target: Target, *, healthy: bool) -> str | None:
        assert target.port is not None
        # A sandbox whose network isn't up yet swallows the first packet; asking anew beats the kernel's 1 s.
        patience = target.spec.timeout_seconds if healthy else min(0.4, target.spec.timeout_seconds)
        connection = await self._dial(target.address, target.port, timeout_seconds=patience)
        try:
            return await ask_http(connection, target.spec.path) if target.spec.kind == "http" else None
        finally:
            connection.close()

    async def _answers(self, target: Target) -> bool:
        """Whether the app answers a request, if it is one that gets any: what is routed to, is routed to in HTTP."""
        if target.port is None:
            return False
        try:
            async with asyncio.timeout(ALIVE_SECONDS):
                connection = await self._dial(target.address, target.port, timeout_seconds=ALIVE_SECONDS)
                try:
                    return await _first_status(connection, "/") < _SERVER_ERROR
                finally:
                    connection.close()
        except (OSError, TimeoutError, _NoAnswer):
            return False

    async def _check_command(self, target: Target) -> str | None:
        async with self._commands:
            session = await self._enter(target.id, tuple(target.spec.command))
            try:
                async with asyncio.TaskGroup() as group:
                    out = group.create_task(_read_some(session.read_stdout), name="check-stdout")
                    err = group.create_task(_read_some(session.read_stderr), name="check-stderr")
                    await session.close_stdin()
                    status = await session.wait()
            finally:
                with contextlib.suppress(OSError, ShellWeGoError):
                    await session.close()
        if status == 0:
            return None
        said = target.redact((err.result() or out.result()).decode(errors="replace").strip())[-200:]
        return f"the check command exited with status {status}" + (f": {said}" if said else "")


async def ask_http(connection: socket.socket, path: str) -> str | None:
    """GET `path` on a connected socket: None when the answer is 200-399, else what was wrong."""
    try:
        status = await _first_status(connection, path)
    except _NoAnswer as error:
        return str(error)
    return None if 200 <= status < 400 else f"GET {path} answered {status}"


class _NoAnswer(Exception):
    """Whatever the app sent, it was no answer."""


async def _first_status(connection: socket.socket, path: str) -> int:
    """GET `path`, and the status of the answer, of which no more is read than is polite. Raises _NoAnswer, OSError."""
    loop = asyncio.get_running_loop()
    # Many frameworks refuse a Host they don't know; localhost is the one that they allow by themselves.
    request = f"GET {quote(path, safe=_SAFE_IN_PATH)} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: ShellWeGo-Health/1\r\n"
    await loop.sock_sendall(connection, (request + "Accept: */*\r\nConnection: close\r\n\r\n").encode())
    answer = b""
    while b"\n" not in answer and len(answer) < _STATUS_BYTES:
        chunk = await loop.sock_recv(connection, _STATUS_BYTES)
        if not chunk:
            break
        answer += chunk
    match = _STATUS_LINE.match(answer)
    if match is None:
        raise _NoAnswer(
            f"GET {path} was not answered in HTTP/1" if answer else f"GET {path}: the app closed the connection"
        )
    # Closing on unread bytes resets the connection, which apps log as an error of ours.
    read = len(answer)
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(0.5):
            while read < _BODY_BYTES and (chunk := await loop.sock_recv(connection, 16384)):
                read += len(chunk)
    return int(match[1])


def _listens_on_nothing(target: Target) -> bool:
    return target.spec.kind == "none" or (target.port is None and target.spec.kind in {"http", "tcp"})


def _what(target: Target) -> str:
    match target.spec.kind:
        case "http":
            return f"GET {target.spec.path} on port {target.port}"
        case "command":
            return "the check command"
        case _:
            return f"port {target.port}"


def _first_rhythm(target: Target, age: float) -> float:
    slowest = 0.5 if age < 60 else 2.0
    wait = max(0.05, min(slowest, age * 0.1))
    if target.spec.kind == "command":
        wait = max(wait, 0.5)  # Entering a sandbox costs a process, a connection costs nothing.
    return min(wait, target.spec.interval_seconds)


async def _read_some(read: Callable[[], Awaitable[bytes]]) -> bytes:
    """The last bytes of an output, however much it is; the rest is read and dropped, so that nobody blocks."""
    kept = b""
    while chunk := await read():
        kept = (kept + chunk)[-_OUTPUT_BYTES:]
    return kept
