"""Health checks decide who gets traffic: they must be right, quick, cheap, and not to be fooled."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from ipaddress import IPv4Address
from typing import cast

import pytest
from tests.unit.agent.factories import ins

from shellwego.agent.health import HealthMonitor, Target, ask_http
from shellwego.core.ids import InstanceId
from shellwego.core.redaction import Redaction
from shellwego.drivers.runtime.port import ExecSession
from shellwego.protocol.messages import HealthSpec

B = ins("b")
ADDRESS = IPv4Address("100.96.0.2")
Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def listening(answer: Answer) -> AsyncIterator[tuple[str, int]]:
    async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await answer(reader, writer)
        writer.close()

    server = await asyncio.start_server(guarded, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()
    finally:
        server.close()


async def dial_to(target: tuple[str, int]) -> socket.socket:
    connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        await asyncio.get_running_loop().sock_connect(connection, target)
    except BaseException:  # A check that is ended in the middle, too.
        connection.close()
        raise
    return connection


async def ask(answer: bytes, path: str = "/") -> tuple[str | None, bytes]:
    """What the check says of such an answer, and what it had sent."""
    heard = b""

    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal heard
        heard = await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()

    async with listening(app) as target:
        connection = await dial_to(target)
        try:
            async with asyncio.timeout(5):
                return await ask_http(connection, path), heard
        finally:
            connection.close()


@pytest.mark.parametrize("status", [200, 204, 301, 399])
async def test_these_are_healthy(status: int) -> None:
    assert (await ask(f"HTTP/1.1 {status} Fine\r\n\r\nbody".encode()))[0] is None


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 400 Bad\r\n\r\n", "answered 400"),
        (b"HTTP/1.0 503\r\n\r\n", "answered 503"),
        (b"HTTP/1.1 99 Odd\r\n\r\n", "not answered in HTTP"),
        (b"SSH-2.0-OpenSSH\r\n", "not answered in HTTP"),
        (b"x" * 100_000, "not answered in HTTP"),
        (b"\0\xff\n", "not answered in HTTP"),
        (b"", "closed the connection"),
    ],
)
async def test_these_are_not_and_say_why(answer: bytes, words: str) -> None:
    problem, _ = await ask(answer)
    assert problem is not None
    assert words in problem


async def test_a_path_can_not_smuggle_a_second_request() -> None:
    _, heard = await ask(b"HTTP/1.1 200 OK\r\n\r\n", "/a b\r\nX-Evil: 1?q=ü")
    assert heard.startswith(b"GET /a%20b%0D%0AX-Evil:%201?q=%C3%BC HTTP/1.1\r\nHost: localhost\r\n")


async def test_an_endless_answer_ends() -> None:
    """An app that streams for ever is healthy, and costs no more than one that doesn't."""

    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    async with listening(app) as target, asyncio.timeout(10):
        connection = await dial_to(target)
        assert await ask_http(connection, "/") is None
        connection.close()


class App:
    """One instance as the monitor meets it."""

    def __init__(self) -> None:
        self.dials = 0
        self.up = True
        self.verdicts: list[tuple[bool, str]] = []
        self.news = asyncio.Event()

    async def dial(self, address: IPv4Address, port: int, *, timeout_seconds: float) -> socket.socket:
        self.dials += 1
        if not self.up:
            raise ConnectionRefusedError(111, "Connection refused")
        return socket.socket()

    async def enter(self, id: InstanceId, command: tuple[str, ...]) -> ExecSession:
        raise RuntimeError("not used")

    def judge(self, target: Target, healthy: bool, problem: str) -> None:
        self.verdicts.append((healthy, problem))
        self.news.set()

    async def verdict(self) -> tuple[bool, str]:
        async with asyncio.timeout(10):
            await self.news.wait()
        self.news.clear()
        return self.verdicts[-1]


@contextlib.asynccontextmanager
async def watching(
    app: App, *, healthy: bool = False, started_ago: float = 0.0, redact: Redaction | None = None, **spec: object
) -> AsyncIterator[HealthMonitor]:
    check = HealthSpec(**{"interval_seconds": 0.05, "retries": 2, "start_period_seconds": 30.0, **spec})  # type: ignore[arg-type]
    async with asyncio.TaskGroup() as tasks:
        monitor = HealthMonitor(tasks, dial=app.dial, enter=app.enter, on_verdict=app.judge)
        monitor.watch(Target(B, time.time() - started_ago, check, ADDRESS, 8080, healthy, redact or Redaction()))
        yield monitor
        monitor.forget(B)


async def test_the_first_success_is_told_at_once_and_once() -> None:
    app = App()
    async with watching(app):
        assert await app.verdict() == (True, "")
        dialled = app.dials
        async with asyncio.timeout(5):
            while app.dials < dialled + 3:  # noqa: ASYNC110 - the monitor tells nobody of a check that changed nothing
                await asyncio.sleep(0.01)
    assert len(app.verdicts) == 1


async def test_a_port_that_is_open_for_a_moment_proves_nothing() -> None:
    """gunicorn listens before it loads the app: a broken version must not replace a working one by that."""
    app = App()
    async with watching(app, start_period_seconds=0.0, retries=1) as monitor:
        async with asyncio.timeout(5):
            while app.dials < 3:  # noqa: ASYNC110 - see above
                await asyncio.sleep(0.01)
        assert "waiting to see" in monitor.last_word(B)
        assert not app.verdicts
        app.up = False
        healthy, why = await app.verdict()
    assert not healthy
    assert "nothing accepts connections on port 8080" in why


@pytest.mark.parametrize(("status", "is_believed"), [(200, True), (404, True), (500, False)])
async def test_an_app_that_answers_is_believed_at_once(
    status: int, is_believed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every deployment would wait two seconds more for an app that could have served all the time."""
    monkeypatch.setattr("shellwego.agent.health.ALIVE_SECONDS", 60.0)  # On a busy machine two would be over by then.
    app, asked = App(), 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        if await reader.readline():  # The check of the port itself says nothing.
            asked += 1
            writer.write(b"HTTP/1.1 %d Said\r\nContent-Length: 0\r\n\r\n" % status)
            await writer.drain()

    async with listening(answer) as place:

        async def dial(address: IPv4Address, port: int, *, timeout_seconds: float) -> socket.socket:
            app.dials += 1
            return await dial_to(place)

        app.dial = dial  # type: ignore[method-assign]
        async with watching(app) as monitor:
            if is_believed:
                assert await app.verdict() == (True, "")
            async with asyncio.timeout(30):
                while app.dials < 4:  # noqa: ASYNC110 - see above
                    await asyncio.sleep(0.01)
            assert asked == 1  # Whatever it answers: it is no load.
            assert bool(app.verdicts) is is_believed
            assert ("waiting to see" in monitor.last_word(B)) is not is_believed


async def test_failures_before_the_first_success_do_not_count_at_first() -> None:
    app = App()
    app.up = False
    async with watching(app) as monitor:
        async with asyncio.timeout(5):
            while app.dials < 4:  # noqa: ASYNC110 - see above
                await asyncio.sleep(0.01)
        assert not app.verdicts
        assert monitor.last_word(B).startswith("nothing accepts connections on port 8080")
        app.up = True
        assert await app.verdict() == (True, "")
        assert monitor.last_word(B) == ""


async def test_past_the_start_period_they_do() -> None:
    app = App()
    app.up = False
    async with watching(app, started_ago=31.0):
        healthy, why = await app.verdict()
    assert not healthy
    # The commonest mistake of all: what to do about it stands beside it.
    assert why.startswith("nothing accepts connections on port 8080. The app must listen on 0.0.0.0")
    assert app.dials >= 2


async def test_after_a_success_retries_in_a_row_decide() -> None:
    app = App()
    async with watching(app, retries=3) as monitor:
        await app.verdict()
        doubts: list[int] = []
        monitor._on_doubt = lambda: doubts.append(1)
        before = app.dials
        app.up = False
        assert (await app.verdict())[0] is False
        assert app.dials >= before + 3
    assert doubts == [1]  # Somebody looks whether it still runs, once.


async def test_an_adopted_healthy_instance_is_not_announced_again() -> None:
    app = App()
    async with watching(app, healthy=True):
        async with asyncio.timeout(5):
            while app.dials < 2:  # noqa: ASYNC110 - see above
                await asyncio.sleep(0.01)
    assert not app.verdicts


async def test_a_broken_check_condemns_only_what_it_checks() -> None:
    app = App()
    async with watching(app, kind="command", command=["x"], start_period_seconds=0.0):
        healthy, problem = await app.verdict()
    assert not healthy
    assert "check itself broke" in problem


async def test_forgetting_ends_the_checks() -> None:
    app = App()
    async with watching(app) as monitor:
        await app.verdict()
        monitor.forget(B)
        monitor.forget(B)
        assert not monitor.watched


class Session:
    """Stands for a check command that printed something and failed."""

    def __init__(self, said: bytes) -> None:
        self._said = said

    async def read_stdout(self) -> bytes:
        return b""

    async def read_stderr(self) -> bytes:
        said, self._said = self._said, b""
        return said

    async def close_stdin(self) -> None: ...

    async def wait(self) -> int:
        return 2

    async def close(self) -> None: ...


async def test_what_a_check_command_prints_is_told_without_the_apps_secrets() -> None:
    """It goes into events, reasons and `instances list`. The secret reaches beyond what is cut off, too."""
    secret = "correct-horse-battery"

    async def enter(id: InstanceId, command: tuple[str, ...]) -> ExecSession:
        return cast("ExecSession", Session(f"{secret} {'x' * 190}".encode()))

    app = App()
    app.enter = enter  # type: ignore[method-assign]
    check = {"kind": "command", "command": ["check"], "retries": 1, "start_period_seconds": 0.0}
    async with watching(app, redact=Redaction([("API_KEY", secret)]), **check):
        healthy, why = await app.verdict()
    assert not healthy
    assert "battery" not in why
    assert why.startswith("the check command exited with status 2: ")
