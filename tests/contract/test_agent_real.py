"""The agent on real gVisor, a real network and a real image store, as the process that an operator runs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
from tests.images import busybox_layout
from tests.integration.talking_server import TalkingServer
from tests.leaks import inventory
from tests.unit.agent.factories import assignment
from tests.unit.agent.factories import spec as some_spec

from shellwego.agent.node import stop_everything
from shellwego.core.ids import new_id
from shellwego.processes.agent import make_drivers
from shellwego.processes.cloud import Cloud, ensure_cloud
from shellwego.processes.engines_found import find_engines
from shellwego.processes.parts import make_images
from shellwego.protocol.channel import Channel
from shellwego.protocol.messages import (
    ExecData,
    ExecRequest,
    ExecResize,
    HealthSpec,
    InstanceSpec,
    LogLine,
    LogsRequest,
    Message,
    StreamEnd,
)

pytestmark = pytest.mark.root
HTTP = HealthSpec(kind="http", path="/", interval_seconds=0.5, timeout_seconds=2, start_period_seconds=20, retries=2)


APP = 'echo "listening on $PORT"; httpd -f -p "$PORT" -h /srv & while [ ! -e /end ]; do sleep 0.1; done; exit 3'
"""Serves a page, and crashes when it finds a file."""


@dataclass
class Node:
    """A cloud's data directory with one image, a talking server on its control socket, and an agent process."""

    cloud: Cloud
    server: TalkingServer
    image: str
    process: asyncio.subprocess.Process | None = None
    ids: dict[str, str] = field(default_factory=dict)

    def spec(self, name: str, **changes: object) -> InstanceSpec:
        id = self.ids.setdefault(name, new_id("instance", secrets.token_bytes))
        return msgspec.structs.replace(
            some_spec(), id=id, image=self.image, command=[], health=HTTP, cpu_millis=1000, **changes
        )

    async def start_agent(self) -> None:
        with (self.cloud.logs / "agent.out").open("ab") as output:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "shellwego.processes.agent",
                "--data-dir",
                str(self.cloud.data),
                stdout=output,
                stderr=output,
                env={key: value for key, value in os.environ.items() if key != "SHELLWEGO_SUPERVISOR"},
            )

    async def end_agent(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
        async with asyncio.timeout(20):
            return await self.process.wait()

    async def fetch(self, address: str) -> str:
        """What the app answers inside the data plane."""
        command = (
            "ip",
            "netns",
            "exec",
            self.cloud.prefix,
            "wget",
            "-q",
            "-T",
            "5",
            "-O",
            "-",
            f"http://{address}:8080/",
        )
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=20)
        return done.stdout

    def words(self) -> str:
        return (self.cloud.logs / "agent.log").read_text() + (self.cloud.logs / "agent.out").read_text()


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    with tempfile.TemporaryDirectory(prefix="swg-agent-") as folder:
        root = Path(folder)
        cloud = ensure_cloud(root / "data")
        layout = busybox_layout(
            root / "layout",
            cmd=("sh", "-c", APP),
            files={"/srv/index.html": "hello from inside\n"},
        )
        image = await make_images(cloud).import_layout(layout)
        server = TalkingServer(cloud.control_socket)
        await server.start()
        made = Node(cloud, server, image.reference)
        try:
            await made.start_agent()
            yield made
        finally:
            await made.end_agent(signal.SIGKILL)
            await server.stop()
            await stop_everything(cloud.agent, make_drivers(cloud, find_engines()), longest_grace_seconds=1)
            cloud.control_socket.unlink(missing_ok=True)
            left = [line for line in inventory(cloud.short) if not line.startswith("runtime directory")]
            await asyncio.to_thread(shutil.rmtree, cloud.run)
            assert not left


@pytest.mark.parametrize("runtime", ["gvisor", "gvisor-host-network", "runc"])
async def test_an_app_runs_answers_is_watched_and_goes(node: Node, runtime: str) -> None:
    spec = node.spec("b", runtime=runtime)
    await node.server.say(assignment(1, spec))
    report = await node.server.until_state(spec.id, "healthy", seconds=60)
    assert report.address is not None
    assert await node.fetch(report.address) == "hello from inside\n"

    said = await stream(node, LogsRequest(instances=[spec.id], tail=10))
    assert [line.text for line in said if isinstance(line, LogLine)] == ["listening on 8080"]

    command = ["sh", "-c", "hostname; cat /etc/hostname; echo $SHELLWEGO_APP $COLOUR; exit 5"]
    said = await stream(node, ExecRequest(instance=spec.id, command=command))
    text = b"".join(m.data for m in said if isinstance(m, ExecData) and m.channel == "stdout").decode()
    hostname = f"hello-{spec.id[4:10]}"
    assert text.split() == [hostname, hostname, "hello", "blue"]
    assert said[-1] == StreamEnd(exit_code=5)

    # The app ends by itself, and it comes back by itself, with a fresh writable layer.
    await stream(node, ExecRequest(instance=spec.id, command=["touch", "/end"]))
    failed = await node.server.until_state(spec.id, "backoff", seconds=30)
    assert (failed.exit_reason, failed.exit_code) == ("exited", 3)
    again = await node.server.until_state(spec.id, "healthy", seconds=60)
    assert again.restarts == 1
    assert again.address == report.address
    assert await node.fetch(report.address) == "hello from inside\n"

    await node.server.say(assignment(2, absent=(spec.id,)))
    await node.server.until_state(spec.id, "stopped", seconds=30)
    short = spec.id.removeprefix("ins_")
    assert not [line for line in inventory(node.cloud.short) if short in line]


async def test_a_killed_agent_finds_its_apps_again(node: Node) -> None:
    first, second = node.spec("b"), node.spec("c")
    node.server.on_connect = [assignment(1, first, second)]
    await node.server.say(*node.server.on_connect)
    report = await node.server.until_state(first.id, "healthy", seconds=60)
    await node.server.until_state(second.id, "healthy", seconds=60)
    assert report.address is not None
    await node.end_agent(signal.SIGKILL)
    assert await node.fetch(report.address) == "hello from inside\n"
    heard = len(node.server.reports)
    await node.start_agent()
    await node.server.until(lambda: len(node.server.reports) > heard + 1, seconds=30)
    for later in node.server.reports[heard:]:
        assert {found.id: found.state for found in later.instances} == {first.id: "healthy", second.id: "healthy"}
        assert all(found.restarts == 0 for found in later.instances)


async def test_killed_in_the_middle_of_starts_nothing_is_lost_or_doubled(node: Node) -> None:
    specs = [node.spec(name) for name in "bcd"]
    node.server.on_connect = [assignment(1, *specs)]
    for _ in range(4):
        await node.server.say(*node.server.on_connect)
        await node.server.until(lambda: bool(node.server.reports))
        await node.end_agent(signal.SIGKILL)
        await node.start_agent()
    reports = [await node.server.until_state(spec.id, "healthy", seconds=90) for spec in specs]
    assert len({report.address for report in reports}) == 3
    for report in reports:
        assert report.address is not None
        assert await node.fetch(report.address) == "hello from inside\n"
    absent = tuple(spec.id for spec in specs)
    node.server.on_connect = [assignment(2, absent=absent)]
    await node.server.say(*node.server.on_connect)
    await node.end_agent(signal.SIGKILL)
    await node.start_agent()
    for id in absent:
        await node.server.until_state(id, "stopped", seconds=60)
    assert not [line for line in inventory(node.cloud.short) if any(id[4:] in line for id in absent)]


async def test_what_an_app_that_cannot_start_says(node: Node) -> None:
    wrong = node.spec("b")
    wrong = msgspec.structs.replace(wrong, command=["/no/such/program"])
    broken = msgspec.structs.replace(node.spec("c"), command=["sh", "-c", "echo no database >&2; exit 3"])
    hog = msgspec.structs.replace(node.spec("d"), command=["sh", "-c", "x=a; while :; do x=$x$x; done"], memory_mib=32)
    await node.server.say(assignment(1, wrong, broken, hog))
    told = await node.server.until_state(wrong.id, "backoff", "crash_loop", seconds=60)
    assert "/no/such/program" in told.reason
    told = await node.server.until_state(broken.id, "backoff", "crash_loop", seconds=60)
    assert "exited with status 3" in told.reason
    assert told.last_lines[-1:] == ["no database"]
    told = await node.server.until_state(hog.id, "backoff", "crash_loop", seconds=60)
    assert told.exit_reason == "out_of_memory"


async def test_a_terminal_has_a_size(node: Node) -> None:
    spec = node.spec("b")
    await node.server.say(assignment(1, spec))
    await node.server.until_state(spec.id, "healthy", seconds=60)
    channel = await node.server.open(ExecRequest(instance=spec.id, command=["sh"], tty=True, columns=91, rows=17))
    await channel.send(ExecData(channel="stdin", data=b"stty size\n"))
    await hear(channel, b"17 91")
    await channel.send(ExecResize(columns=101, rows=19))
    await channel.send(ExecData(channel="stdin", data=b"stty size\n"))
    await hear(channel, b"19 101")
    await channel.send(ExecData(channel="stdin", data=b"exit 9\n"))
    said = await rest(channel)
    assert said[-1] == StreamEnd(exit_code=9)


async def hear(channel: Channel, words: bytes) -> None:
    heard = b""
    async with asyncio.timeout(20):
        while words not in heard:
            message = await channel.receive()
            assert isinstance(message, ExecData), message
            heard += message.data


async def stream(node: Node, request: LogsRequest | ExecRequest) -> list[Message]:
    return await rest(await node.server.open(request))


async def rest(channel: Channel) -> list[Message]:
    heard: list[Message] = []
    async with asyncio.timeout(30):
        while not (heard and isinstance(heard[-1], StreamEnd)):
            heard.append(await channel.receive())
    return heard
