"""`exec`: a real terminal here, a WebSocket to a scripted cloud, and what a person would feel in between."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import pty
import shlex
import signal
import struct
import sys
import termios
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from tests.unit.client.fake_cloud import an_id
from websockets.asyncio.server import ServerConnection, serve
from websockets.typing import Subprotocol

from shellwego.cli.exec import with_separator

INSTANCE = an_id("ins", 7)
Script = Callable[[ServerConnection], Awaitable[None]]


@dataclass
class ExecCloud:
    """What it was asked, and a script for what happens inside."""

    script: Script
    queries: list[dict[str, list[str]]] = field(default_factory=list)
    authorizations: list[str | None] = field(default_factory=list)
    url: str = ""

    async def answer(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        self.queries.append(parse_qs(urlsplit(connection.request.path).query))
        self.authorizations.append(connection.request.headers.get("Authorization"))
        assert connection.subprotocol == "shellwego.exec.v1"
        await self.script(connection)


@contextlib.asynccontextmanager
async def exec_cloud(script: Script, *, refuse: bytes | None = None) -> AsyncIterator[ExecCloud]:
    cloud = ExecCloud(script)

    def refusal(connection: ServerConnection, request: Any) -> Any:
        if refuse is None:
            return None
        return connection.respond(409, refuse.decode())

    async with serve(
        cloud.answer,
        "127.0.0.1",
        0,
        subprotocols=[Subprotocol("shellwego.exec.v1")],
        process_request=refusal,
    ) as server:
        cloud.url = f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        yield cloud


def environment(cloud: ExecCloud) -> dict[str, str]:
    return {"SHELLWEGO_URL": cloud.url, "SHELLWEGO_TOKEN": "good", "PATH": os.environ["PATH"], "HOME": "/nonexistent",
            "TERM": "xterm"}  # fmt: skip


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "shellwego.processes.main", "exec", *words]


async def piped(cloud: ExecCloud, *words: str, stdin: bytes | None = b"") -> tuple[int, bytes, bytes]:
    process = await asyncio.create_subprocess_exec(
        *command(*words), env=environment(cloud), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(60):
        out, err = await process.communicate(stdin)
    assert process.returncode is not None
    return process.returncode, out, err


async def exits(connection: ServerConnection, status: int) -> None:
    await connection.send(json.dumps({"exit": status}))


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("hello ls -la", "hello -- ls -la"),
        ("hello", "hello"),
        ("hello -- ls -t", "hello -- ls -t"),
        ("-p worker hello ls", "-p worker hello -- ls"),
        ("hello --process=worker -T top -o x", "hello --process=worker -T -- top -o x"),
        ("hello -p worker sh -c 'a -- b'", "hello -p worker -- sh -c 'a -- b'"),
    ],
)
def test_what_follows_the_command_is_the_commands(given: str, meant: str) -> None:
    """`exec hello ls -t` asks ls to sort by time, and us for nothing."""
    takes_value = {"-p", "--process", "-o", "--output", "--url", "--token", "--ca"}
    assert with_separator(shlex.split(given), takes_value) == shlex.split(meant)


class TestPipes:
    async def test_streams_stay_apart_and_the_inner_status_is_ours(self) -> None:
        async def script(connection: ServerConnection) -> None:
            await connection.send(b"\1out\xff\n")
            await connection.send(b"\2err\n")
            await exits(connection, 42)

        async with exec_cloud(script) as cloud:
            code, out, err = await piped(cloud, INSTANCE, "--", "ls", "-l", "a b")
        assert (code, out, err) == (42, b"out\xff\n", b"err\n")
        assert cloud.queries == [{"command": ["ls", "-l", "a b"]}]
        assert cloud.authorizations == ["Bearer good"]

    async def test_all_of_stdin_arrives_and_then_its_end(self) -> None:
        """`pg_restore < dump` must neither lose a byte nor hang for more."""
        data = os.urandom(3 << 20)
        received = bytearray()

        async def script(connection: ServerConnection) -> None:
            async for message in connection:
                assert isinstance(message, bytes)
                assert message[:1] == b"\0"
                if message == b"\0":
                    break
                received.extend(message[1:])
            await exits(connection, 0)

        async with exec_cloud(script) as cloud:
            code, _, err = await piped(cloud, INSTANCE, "--", "cat", stdin=data)
        assert (code, err) == (0, b"")
        assert bytes(received) == data

    async def test_a_file_as_stdin(self, tmp_path: Any) -> None:
        """epoll refuses regular files, and /dev/null."""
        seen: list[bytes] = []

        async def script(connection: ServerConnection) -> None:
            async for message in connection:
                assert isinstance(message, bytes)
                seen.append(message)
                if message == b"\0":
                    break
            await exits(connection, 0)

        (tmp_path / "file").write_bytes(b"content")
        for path, expected in ((tmp_path / "file", [b"\0content", b"\0"]), ("/dev/null", [b"\0"])):
            seen.clear()
            async with exec_cloud(script) as cloud:
                with Path(path).open("rb") as file:
                    process = await asyncio.create_subprocess_exec(
                        *command(INSTANCE, "--", "cat"), env=environment(cloud), stdin=file
                    )
                    async with asyncio.timeout(60):
                        assert await process.wait() == 0
            assert seen == expected

    async def test_a_large_output_arrives_whole(self) -> None:
        async def script(connection: ServerConnection) -> None:
            for _ in range(200):
                await connection.send(b"\1" + b"x" * 65536)
            await exits(connection, 0)

        async with exec_cloud(script) as cloud:
            code, out, _ = await piped(cloud, INSTANCE, "--", "cat")
        assert (code, len(out)) == (0, 200 * 65536)

    async def test_ctrl_c_is_sent_inside(self) -> None:
        signals: list[int] = []

        async def script(connection: ServerConnection) -> None:
            await connection.send(b"\1ready\n")
            async for message in connection:
                if isinstance(message, str):
                    signals.append(json.loads(message)["signal"])
                    break
            await exits(connection, 130)

        async with exec_cloud(script) as cloud:
            process = await asyncio.create_subprocess_exec(
                *command("--no-stdin", INSTANCE, "--", "sleep", "60"), env=environment(cloud),
                stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
            assert process.stdout is not None
            async with asyncio.timeout(60):
                assert await process.stdout.readline() == b"ready\n"
                process.send_signal(signal.SIGINT)
                assert await process.wait() == 130
        assert signals == [2]

    async def test_the_clouds_reason_is_told(self) -> None:
        refusal = json.dumps(
            {"type": "x", "title": "t", "status": 409, "detail": "The instance is stopped.", "code": "conflict"}
        ).encode()

        async def script(connection: ServerConnection) -> None: ...

        async with exec_cloud(script, refuse=refusal) as cloud:
            code, _, err = await piped(cloud, INSTANCE, "--", "true")
        assert code == 1
        assert b"The instance is stopped." in err

    async def test_a_problem_in_mid_stream_is_told(self) -> None:
        async def script(connection: ServerConnection) -> None:
            said = {"type": "x", "title": "t", "status": 503, "detail": "Node n is not connected.", "code": "x",
                    "retryable": True}  # fmt: skip
            await connection.send(json.dumps({"problem": said}))

        async with exec_cloud(script) as cloud:
            code, _, err = await piped(cloud, INSTANCE, "--", "true")
        assert code == 5
        assert b"Node n is not connected." in err

    @pytest.mark.parametrize(("detail", "code"), [("The command was not found in it.", 127), ("Not executable.", 126)])
    async def test_a_command_that_is_not_there_ends_as_in_a_shell(self, detail: str, code: int) -> None:
        async def script(connection: ServerConnection) -> None:
            said = {"type": "x", "title": "t", "status": 422, "detail": detail, "code": "start_failed"}
            await connection.send(json.dumps({"problem": said}))

        async with exec_cloud(script) as cloud:
            ended, _, err = await piped(cloud, INSTANCE, "--", "true")
        assert ended == code
        assert detail.encode() in err

    async def test_a_cut_line_is_no_success(self) -> None:
        async def script(connection: ServerConnection) -> None:
            await connection.send(b"\1half")
            connection.transport.abort()

        async with exec_cloud(script) as cloud:
            code, out, err = await piped(cloud, INSTANCE, "--", "true")
        assert (code, out) == (5, b"half")
        assert b"the command may go on" in err

    async def test_nobody_there(self) -> None:
        async def script(connection: ServerConnection) -> None: ...

        async with exec_cloud(script) as cloud:
            pass
        code, _, err = await piped(cloud, INSTANCE, "--", "true")
        assert code == 5
        assert cloud.url.encode() in err


class Terminal:
    """A pseudo terminal with our command in it."""

    def __init__(self, master: int, slave: int, process: asyncio.subprocess.Process) -> None:
        self.master, self.slave, self.process = master, slave, process
        self.seen = b""

    async def until(self, text: bytes) -> bytes:
        async with asyncio.timeout(60):
            while text not in self.seen:
                self.seen += await asyncio.to_thread(os.read, self.master, 65536)
        before, _, self.seen = self.seen.partition(text)
        return before

    def type(self, data: bytes) -> None:
        os.write(self.master, data)

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.process.send_signal(signal.SIGWINCH)  # The kernel's own goes to the session's foreground group.

    def mode(self) -> list[Any]:
        return termios.tcgetattr(self.slave)


@contextlib.asynccontextmanager
async def in_terminal(cloud: ExecCloud, *words: str) -> AsyncIterator[Terminal]:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 111, 0, 0))
    process = await asyncio.create_subprocess_exec(
        *command(*words), env=environment(cloud), stdin=slave, stdout=slave, stderr=slave, start_new_session=True
    )
    try:
        yield Terminal(master, slave, process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        os.close(master)
        os.close(slave)


class TestTerminal:
    async def test_keys_go_through_raw_and_the_terminal_is_set_back(self) -> None:
        keys = bytearray()

        async def script(connection: ServerConnection) -> None:
            await connection.send(b"\1\x1b[1m$ \x1b[0m")
            async for message in connection:
                if isinstance(message, bytes):
                    keys.extend(message[1:])
                    await connection.send(b"\1" + message[1:])
                if keys.endswith(b"\x04"):
                    break
            await connection.send(b"\1bye\r\n")
            await exits(connection, 7)

        async with exec_cloud(script) as cloud, in_terminal(cloud, INSTANCE) as terminal:
            before = terminal.mode()
            await terminal.until(b"$ ")
            raw = terminal.mode()
            assert not raw[3] & (termios.ICANON | termios.ECHO | termios.ISIG)
            # Ctrl-C, Ctrl-Z, an arrow and Ctrl-D are the inner program's, not ours.
            terminal.type(b"ls\r\x03\x1a\x1b[A\x04")
            await terminal.until(b"bye\r\n")
            async with asyncio.timeout(60):
                assert await terminal.process.wait() == 7
            assert terminal.mode() == before
        assert bytes(keys) == b"ls\r\x03\x1a\x1b[A\x04"
        assert cloud.queries == [{"command": ["/bin/sh"], "tty": ["true"], "columns": ["111"], "rows": ["33"]}]

    async def test_the_size_follows_the_window(self) -> None:
        sizes: list[dict[str, int]] = []

        async def script(connection: ServerConnection) -> None:
            await connection.send(b"\1$ ")
            async for message in connection:
                if isinstance(message, str):
                    sizes.append(json.loads(message)["resize"])
                    break
            await exits(connection, 0)

        async with exec_cloud(script) as cloud, in_terminal(cloud, INSTANCE, "--", "top") as terminal:
            await terminal.until(b"$ ")
            terminal.resize(132, 50)
            async with asyncio.timeout(60):
                assert await terminal.process.wait() == 0
        assert sizes == [{"columns": 132, "rows": 50}]

    @pytest.mark.parametrize("how", ["cut", "terminated"])
    async def test_the_terminal_is_set_back_when_it_ends_badly(self, how: str) -> None:
        """A shell left raw shows no typing and needs `reset`."""

        async def script(connection: ServerConnection) -> None:
            await connection.send(b"\1$ ")
            if how == "cut":
                connection.transport.abort()
                return
            async for message in connection:
                if isinstance(message, str) and json.loads(message) == {"signal": int(signal.SIGTERM)}:
                    break
            await exits(connection, 143)

        async with exec_cloud(script) as cloud, in_terminal(cloud, INSTANCE) as terminal:
            before = terminal.mode()
            await terminal.until(b"$ ")
            if how == "terminated":
                terminal.process.terminate()
            async with asyncio.timeout(60):
                assert await terminal.process.wait() == (5 if how == "cut" else 143)
            assert terminal.mode() == before

    async def test_no_tty_when_asked_for_none(self) -> None:
        async def script(connection: ServerConnection) -> None:
            await connection.send(b"\1plain\n")
            await exits(connection, 0)

        async with exec_cloud(script) as cloud, in_terminal(cloud, "-T", INSTANCE, "--", "date") as terminal:
            await terminal.until(b"plain")
            async with asyncio.timeout(60):
                assert await terminal.process.wait() == 0
        assert cloud.queries == [{"command": ["date"]}]
