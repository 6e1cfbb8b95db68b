"""What do tests of the agent stand on? A node with its kernel in memory (`World`), or on disk.

`DiskRuntime` and `DiskNetwork` keep what a kernel would keep (sandboxes, namespaces) in files, so that it survives the
agent's death by SIGKILL; every start is a line in `starts`, so that a double start can be seen.
`python -m tests.integration.agent_world DIR SOCKET PORT` runs an agent on such a node.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from tests.integration.talking_server import TalkingServer

from shellwego.agent import node
from shellwego.agent.logs import LogLimits
from shellwego.agent.node import Agent, AgentSettings, Drivers
from shellwego.agent.reconcilers import images
from shellwego.core.errors import ImageNotFound
from shellwego.core.ids import InstanceId
from shellwego.core.instances import ExitReason, ExitStatus
from shellwego.drivers.images.port import Credentials, ImageConfig, PullProgress, Resolved, StoredImage
from shellwego.drivers.kms.fake import FakeKms
from shellwego.drivers.kms.local_key import LocalKey
from shellwego.drivers.network.fake import FakeNetwork
from shellwego.drivers.network.pool import InstanceAddresses
from shellwego.drivers.network.port import Attachment
from shellwego.drivers.runtime.fake import FakeExec, FakeRuntime, small_shell
from shellwego.drivers.runtime.port import ExecSession, Observed, Workload

LOG_BYTES = 1000
"""What each sandbox says as it starts: enough for its log to be turned over."""


class DiskRuntime:
    """A RuntimeDriver whose sandboxes are files."""

    name = "disk"

    def __init__(self, root: Path) -> None:
        self._sandboxes = root / "sandboxes"
        self._sandboxes.mkdir(parents=True, exist_ok=True)
        self._starts = root / "starts"

    async def ensure_running(self, workload: Workload) -> None:
        path = self._sandboxes / workload.id
        if path.exists() and json.loads(path.read_text())["exit"] is None:
            return
        with self._starts.open("a") as file:
            file.write(f"{workload.id} {workload.network_namespace.name}\n")
        with workload.log_path.open("a") as log:
            log.write("x" * LOG_BYTES)
        path.write_text(json.dumps({"started_at": time.time(), "exit": None, "log": str(workload.log_path)}))

    async def ensure_absent(self, id: InstanceId, *, grace_seconds: float) -> None:
        (self._sandboxes / id).unlink(missing_ok=True)

    async def observe(self) -> list[Observed]:
        found = []
        for path in self._sandboxes.iterdir():
            sandbox = json.loads(path.read_text())
            exit = None if sandbox["exit"] is None else ExitStatus(ExitReason.EXITED, sandbox["exit"])
            found.append(Observed(InstanceId(path.name), exit is None, sandbox["started_at"], exit))
        return found

    async def exec(
        self,
        id: InstanceId,
        args: tuple[str, ...],
        *,
        tty: bool,
        env: Mapping[str, str],
        columns: int = 80,
        rows: int = 24,
    ) -> ExecSession:
        return FakeExec(args, tty, env, columns, rows, small_shell)

    async def reopen_log(self, id: InstanceId) -> None:
        Path(json.loads((self._sandboxes / id).read_text())["log"]).touch()

    def crash(self, id: InstanceId, status: int) -> None:
        path = self._sandboxes / id
        path.write_text(json.dumps({**json.loads(path.read_text()), "exit": status}))

    @property
    def running(self) -> set[str]:
        return {path.name for path in self._sandboxes.iterdir() if json.loads(path.read_text())["exit"] is None}

    @property
    def starts(self) -> list[str]:
        return [line.split()[0] for line in self._starts.read_text().splitlines()] if self._starts.exists() else []


class DiskNetwork:
    """A NetworkDriver whose namespaces are files; every port of every instance is answered by one listener."""

    def __init__(self, root: Path, answering_port: int) -> None:
        self._places = root / "namespaces"
        self._places.mkdir(parents=True, exist_ok=True)
        self._port = answering_port
        self._addresses = InstanceAddresses(IPv4Network("100.96.0.0/24"))

    async def ensure_node(self) -> None:
        return

    async def ensure_node_absent(self) -> None:
        for path in self._places.iterdir():
            path.unlink()

    async def ensure_attached(self, id: InstanceId, address: IPv4Address) -> Attachment:
        for path in self._places.iterdir():
            assert path.name == id or path.read_text() != str(address), f"{path.name} and {id} share {address}"
        (self._places / id).write_text(str(address))
        return Attachment(id, address, Path("/run/netns") / id)

    async def ensure_detached(self, id: InstanceId) -> None:
        (self._places / id).unlink(missing_ok=True)

    async def observe(self) -> Collection[InstanceId]:
        return [InstanceId(path.name) for path in self._places.iterdir()]

    async def dial(self, address: IPv4Address, port: int, *, timeout_seconds: float) -> socket.socket:
        if str(address) not in {path.read_text() for path in self._places.iterdir()}:
            raise OSError(errno.EHOSTUNREACH, os.strerror(errno.EHOSTUNREACH))
        connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            async with asyncio.timeout(timeout_seconds):
                await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", self._port))
        except BaseException:
            connection.close()
            raise
        return connection

    @property
    def namespace(self) -> Path:
        return Path("/run/netns/none")

    @property
    def nameservers(self) -> tuple[IPv4Address, ...]:
        return (IPv4Address("10.0.2.3"),)

    @property
    def addresses(self) -> Collection[IPv4Address]:
        return self._addresses


class SomeImages:
    """An ImageStore that has what it is told. `hold` makes pulls wait; `missing` makes them fail; `here` need none."""

    def __init__(self, rootfs: Path, *, config: ImageConfig | None = None) -> None:
        rootfs.mkdir(parents=True, exist_ok=True)
        self._rootfs = rootfs
        self._config = config or ImageConfig(cmd=("serve",))
        self.pulls: list[str] = []
        self.missing: set[str] = set()
        self.here: set[str] = set()
        self.hold: dict[str, asyncio.Event] = {}
        self.collected: list[set[str]] = []

    async def resolve(self, reference: str, *, credentials: Credentials | None = None) -> Resolved:
        return Resolved(reference, "sha256:" + "0" * 64, self._config, 0)

    async def find(self, reference: str) -> StoredImage | None:
        return StoredImage("sha256:" + "0" * 64, self._rootfs, self._config) if reference in self.here else None

    async def ensure(
        self,
        reference: str,
        *,
        credentials: Credentials | None = None,
        on_progress: Callable[[PullProgress], None] = lambda _: None,
    ) -> StoredImage:
        self.pulls.append(reference)
        on_progress(PullProgress("sha256:1", 34_000_000, 120_000_000))
        if reference in self.hold:
            await self.hold[reference].wait()
        if reference in self.missing:
            raise ImageNotFound(reference)
        return StoredImage("sha256:" + "0" * 64, self._rootfs, self._config)

    async def import_layout(self, layout: Path, *, name: str | None = None) -> Resolved:
        raise NotImplementedError

    async def export_layout(self, reference: str, directory: Path) -> None:
        raise NotImplementedError

    async def settle(self) -> None: ...

    async def get_ahead(self) -> None:
        return

    async def collect_garbage(self, keep: Collection[str]) -> int:
        self.collected.append(set(keep))
        return 0


@dataclass
class World:
    """One node whose kernel lives in memory, its agent and its server."""

    root: Path
    runtime: FakeRuntime
    network: FakeNetwork
    images: SomeImages
    kms: FakeKms
    server: TalkingServer
    app: Listener
    limits: LogLimits | None = None

    def agent(self) -> Agent:
        settings = AgentSettings(
            directory=self.root / "agent",
            control_socket=self.root / "control.sock",
            name="node",
            log_limits=self.limits,
            missing_engines=("runc is missing. Run `shellwego engines install`.",),
        )
        runtimes = {"gvisor": self.runtime, "gvisor-host-network": self.runtime}
        return Agent(settings, Drivers(runtimes, self.network, self.images, self.kms))

    async def until(self, fact: Callable[[], bool], *, seconds: float = 15.0) -> None:
        async with asyncio.timeout(seconds):
            while not fact():  # noqa: ASYNC110 - a fake's memory tells nobody when it changes
                await asyncio.sleep(0.01)


class Listener:
    """The app's port: answers HTTP with `status`, or takes connections and is silent."""

    def __init__(self) -> None:
        self.status = 200
        self.silent = False
        self.port = 0
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await reader.readuntil(b"\r\n\r\n")
            if self.silent:
                await reader.read()
            else:
                writer.write(f"HTTP/1.1 {self.status} Said\r\ncontent-length: 0\r\n\r\n".encode())
                await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def a_world(tmp_path: Path) -> AsyncIterator[World]:
    app = Listener()
    await app.start()
    server = TalkingServer(tmp_path / "control.sock")
    await server.start()
    runtime = FakeRuntime(name="gvisor", writes_logs=True)
    network = FakeNetwork()
    for address in list(network.addresses)[:20]:
        network.listen(address, 8080, ("127.0.0.1", app.port))
    yield World(tmp_path, runtime, network, SomeImages(tmp_path / "rootfs"), FakeKms(), server, app)
    runtime.vanish()
    await server.stop()
    await app.stop()


@contextlib.asynccontextmanager
async def running_agent(agent: Agent) -> AsyncIterator[asyncio.Task[None]]:
    """The agent runs inside; at the end it is stopped as by SIGTERM."""
    task = asyncio.create_task(agent.run(), name="agent-under-test")
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def disk_drivers(root: Path, answering_port: int) -> Drivers:
    runtime = DiskRuntime(root)
    return Drivers(
        runtimes={"gvisor": runtime},
        network=DiskNetwork(root, answering_port),
        images=SomeImages(root / "rootfs"),
        kms=LocalKey.ensure(root / "key"),
    )


def main(arguments: list[str]) -> None:
    root, control, port = Path(arguments[0]), Path(arguments[1]), int(arguments[2])
    node.NETWORK_SECONDS = node.IMAGES_SECONDS = 0.2  # Nobody waits for the chores of a day here.
    images.DAILY_SECONDS = 0.1
    limits = LogLimits(file_bytes=LOG_BYTES)
    settings = AgentSettings(directory=root / "agent", control_socket=control, name="node", log_limits=limits)
    asyncio.run(Agent(settings, disk_drivers(root, port)).run())


if __name__ == "__main__":
    main(sys.argv[1:])
