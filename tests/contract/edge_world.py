"""A world for the edge: a data plane namespace with tiny apps in it, a server that scripts routes, a constant load."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import ssl
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.engines import engine

from shellwego.edge.haproxy import HAProxy
from shellwego.edge.socket import RuntimeSocket
from shellwego.kit.ports import free_ports
from shellwego.processes.edge import EdgeOptions, stop_proxy
from shellwego.protocol.channel import Channel, ChannelClosed
from shellwego.protocol.messages import (
    EdgeHello,
    EdgeReport,
    Route,
    Routes,
    RoutesChanged,
    RouteServer,
    RoutesMissed,
    Welcome,
)

HOST = "shop.localhost"
DEADLINE_SECONDS = 30.0
APP = Path(__file__).with_name("edge_app.py")
SOURCE = Path(__file__).parents[2] / "src"


async def until(fact: Callable[[], object], what: str) -> None:
    """Wait for a fact, with a deadline."""
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not fact():  # noqa: ASYNC110 - facts about other processes set no event
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"never happened: {what}") from None


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> dict[str, object]:
        document: dict[str, object] = json.loads(self.body)
        return document


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in head[1:] if ": " in line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Answer(int(head[0].split(" ")[1]), headers, body)


@dataclass
class Load:
    """Counts what clients get that ask all the time, each over one connection kept open as long as it may be."""

    good: int = 0
    failures: list[str] = field(default_factory=list)
    names: set[str] = field(default_factory=set)


class FakeServer:
    """The server's side of the conversation: all routes at first, or when an edge missed something; then changes."""

    def __init__(self, path: Path, domain: str) -> None:
        self._path, self._domain = path, domain
        self.cloud = "cld_" + "a" * 20
        self.routes: list[Route] = []
        self.gone: set[str] = set()
        self.generation = 0
        self.reports: list[EdgeReport] = []
        self._is_whole = False
        self._channels: set[Channel] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._talk, self._path)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            for channel in list(self._channels):
                await channel.close()
            await self._server.wait_closed()
            self._server = None
            self._path.unlink(missing_ok=True)

    async def serve(self, *routes: Route) -> None:
        """Ask for these routes and wait until they are reported in force."""
        self.ask(*routes)
        generation = self.generation
        await until(
            lambda: any(report.generation == generation for report in self.reports), f"generation {generation} in force"
        )

    def lose_database(self) -> None:
        """It knows nothing any more of what it asked for."""
        self.routes, self.gone, self._is_whole = [], set(), True

    def ask(self, *routes: Route) -> None:
        """Serve these, and no more of those that were asked for before."""
        before = {route.app: route for route in self.routes}
        gone = before.keys() - {route.app for route in routes}
        self.gone = (self.gone | gone) - {route.app for route in routes}
        self.routes = list(routes)
        self.generation += 1
        self.reports.clear()
        changes = RoutesChanged(
            since=self.generation - 1,
            generation=self.generation,
            routes=[route for route in routes if before.get(route.app) != route],
            gone=sorted(gone),
        )
        for channel in self._channels:
            self._pushes.append(asyncio.ensure_future(self._push(channel, None if self._is_whole else changes)))
        self._is_whole = False

    _pushes: list[asyncio.Future[None]] = []  # noqa: RUF012 - kept from the garbage collector only

    async def _push(self, channel: Channel, changes: RoutesChanged | None = None) -> None:
        whole = Routes(generation=self.generation, domain=self._domain, routes=self.routes, gone=sorted(self.gone))
        with contextlib.suppress(ChannelClosed):
            await channel.send(changes or whole)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        channel = Channel(reader, writer)
        try:
            assert isinstance(await channel.receive(), EdgeHello)
            await channel.send(Welcome(cloud=self.cloud, heartbeat_seconds=5.0))
            if self.generation:
                await self._push(channel)
            self._channels.add(channel)
            while True:
                message = await channel.receive()
                if isinstance(message, EdgeReport):
                    self.reports.append(message)
                elif isinstance(message, RoutesMissed):
                    await self._push(channel)
        except ChannelClosed:
            pass
        finally:
            self._channels.discard(channel)
            await channel.close()


class World:
    def __init__(self, directory: Path) -> None:
        self.name = f"swg-test-{secrets.token_hex(3)}"
        self.domain = "localhost"
        http_port, https_port = free_ports(2)
        self.options = EdgeOptions(
            data_dir=directory / "data",
            run_dir=directory / "run",
            domain=self.domain,
            address="127.0.0.1",
            http_port=http_port,
            https_port=https_port,
            namespace=Path("/run/netns") / self.name,
            haproxy=engine("haproxy"),
        )
        self.options.run_dir.mkdir()
        self.server = FakeServer(self.options.run_dir / "control.sock", self.domain)
        self.runtime = RuntimeSocket(self.options.paths.socket)
        self.edge: asyncio.subprocess.Process | None = None
        self.program: tuple[str, ...] = ("-m", "shellwego.processes.edge")
        self.apps: dict[str, asyncio.subprocess.Process] = {}
        self._next = 10

    async def start_edge(self, *, faults: str = "", extra: tuple[str, ...] = (), under: tuple[str, ...] = ()) -> None:
        """`extra` are more arguments; `under` is a command that starts it, such as prlimit(1)."""
        options = self.options
        with (options.run_dir / "edge.output").open("ab") as output:
            self.edge = await asyncio.create_subprocess_exec(
                *(*under, sys.executable, "-W", "error", *self.program),
                *("--data-dir", str(options.data_dir), "--run-dir", str(options.run_dir), "--domain", self.domain),
                *("--address", options.address, "--namespace", str(options.namespace)),
                *("--http-port", str(options.http_port), "--https-port", str(options.https_port)),
                *("--haproxy", str(options.haproxy), *extra),
                env={**os.environ, "SHELLWEGO_FAULTS": faults, "PYTHONPATH": str(SOURCE)},
                stdout=output,
                stderr=output,
            )

    @contextlib.asynccontextmanager
    async def restarted_edge(self, *, faults: str) -> AsyncIterator[None]:
        """The edge as a supervisor keeps it: with faults at first, started again without them when it has ended."""
        await self.start_edge(faults=faults)

        async def supervise() -> None:
            while self.edge is not None:
                await self.edge.wait()
                await self.start_edge()

        task = asyncio.create_task(supervise(), name="supervise")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def kill_edge(self) -> None:
        assert self.edge is not None
        self.edge.kill()
        await self.edge.wait()
        self.edge = None

    async def end_edge(self) -> None:
        assert self.edge is not None
        self.edge.terminate()
        assert await self.edge.wait() == 0
        self.edge = None

    async def proxy_pid(self) -> int:
        info = await self.runtime.find_info()
        assert info is not None
        return info.pid

    def proxies(self) -> list[int]:
        proxy = HAProxy(Path("haproxy"), self.options.paths, namespace=None, on_death=lambda: None)
        return proxy.find_processes()

    async def start_app(self, name: str, *, address: str = "") -> RouteServer:
        """A server in the data plane, on an address of its own."""
        if not address:
            self._next += 1
            address = f"127.0.1.{self._next}"
        app = await asyncio.create_subprocess_exec(
            *("ip", "netns", "exec", self.name, sys.executable, str(APP), address, "8080", name),
            stdout=asyncio.subprocess.PIPE,
        )
        self.apps[name if name not in self.apps else f"{name} at {address}"] = app
        assert app.stdout is not None
        assert await app.stdout.readline() == b"ready\n"
        return RouteServer(instance=name, address=address, port=8080)

    async def stop_app(self, name: str) -> None:
        app = self.apps.pop(name)
        with contextlib.suppress(ProcessLookupError):
            app.kill()
        await app.wait()

    def route(
        self,
        name: str,
        *servers: RouteServer,
        draining: tuple[RouteServer, ...] = (),
        status: str = "running",
        grace_seconds: float = 10.0,
    ) -> Route:
        return Route(
            app=f"app_{name}",
            app_name=name,
            organisation="org_test",
            hosts=[f"{name}.{self.domain}"],
            servers=list(servers),
            draining=list(draining),
            status=status,
            grace_seconds=grace_seconds,
        )

    async def connect(self, source: str = "127.0.0.1") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.options.http_port, local_addr=(source, 0))

    async def get(self, host: str, path: str = "/", *, method: str = "GET", **headers: str) -> Answer:
        lines = "".join(f"{key.replace('_', '-')}: {value}\r\n" for key, value in headers.items())
        return await self.send(f"{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{lines}\r\n")

    async def send(self, text: str, *, source: str = "127.0.0.1") -> Answer:
        """What comes back for these very bytes on a connection of their own."""
        reader, writer = await self.connect(source)
        try:
            writer.write(text.encode())
            async with asyncio.timeout(DEADLINE_SECONDS):
                return await read_answer(reader)
        finally:
            writer.close()

    @contextlib.asynccontextmanager
    async def load(self, host: str, *, clients: int = 4) -> AsyncIterator[Load]:
        """Constant requests for the time of the block; each client is honest about every failure."""
        load, ending = Load(), asyncio.Event()

        async def client(number: int) -> None:
            reader = writer = None
            count = 0
            try:
                while not ending.is_set():
                    count += 1
                    method = "POST" if count % 4 == 0 else "GET"
                    request = f"{method} /{number}/{count} HTTP/1.1\r\nhost: {host}\r\ncontent-length: 0\r\n\r\n"
                    try:
                        async with asyncio.timeout(DEADLINE_SECONDS):
                            if writer is None:
                                reader, writer = await self.connect()
                            assert reader is not None
                            writer.write(request.encode())
                            answer = await read_answer(reader)
                    except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
                        load.failures.append(f"{method} {number}/{count}: {error!r}")
                        if writer is not None:
                            writer.close()
                        writer = None
                        continue
                    if answer.status == 200:
                        load.good += 1
                        load.names.add(str(answer.document["name"]))
                    else:
                        load.failures.append(f"{method} {number}/{count}: {answer.status} {answer.body[:80]!r}")
                    if answer.headers.get("connection") == "close":
                        writer.close()
                        writer = None
                    await asyncio.sleep(0.002)
            finally:
                if writer is not None:
                    writer.close()

        async with asyncio.TaskGroup() as tasks:
            for number in range(clients):
                tasks.create_task(client(number))
            await self.progress(load)
            try:
                yield load
                await self.progress(load)
            finally:
                ending.set()

    async def progress(self, load: Load, count: int = 100) -> None:
        """Until that many more requests were answered well."""
        target = load.good + count
        await until(lambda: load.good >= target, f"{count} more answers; failures: {load.failures[:5]}")

    def client_tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.options.authority))


@contextlib.asynccontextmanager
async def a_world() -> AsyncIterator[World]:
    # Not pytest's own directory: paths of Unix sockets must stay below 108 bytes.
    directory = Path(tempfile.mkdtemp(prefix="swg-"))
    directory.chmod(0o755)
    world = World(directory)
    ip = engine("ip")

    async def run(*arguments: str) -> None:
        process = await asyncio.create_subprocess_exec(str(ip), *arguments)
        assert await process.wait() == 0

    await run("netns", "add", world.name)
    try:
        await run("-n", world.name, "link", "set", "lo", "up")
        await world.server.start()
        yield world
    finally:
        if world.edge is not None:
            await world.kill_edge()
        await stop_proxy(world.options, grace_seconds=0.5)
        assert world.proxies() == []
        await world.server.stop()
        for name in list(world.apps):
            await world.stop_app(name)
        await run("netns", "delete", world.name)
        shutil.rmtree(directory)


async def upgrade(world: World, host: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await world.connect()
    writer.write(f"GET / HTTP/1.1\r\nhost: {host}\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101")
    return reader, writer


async def until_true(asked: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await asked():  # noqa: ASYNC110 - facts about other processes set no event
            await asyncio.sleep(0.02)
