"""What do a thousand apps that crash again and again cost those who use the API?

The server is a whole one, and so is the agent; only what the agent runs is not (`storm_agent.py`): a thousand
sandboxes would need a bigger machine. All apps run well, then all end at once, as when a database of theirs is gone;
from then on each ends whenever it is started.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from tests.images import busybox_layout
from tests.registry import running_registry

from benches.measure import cpu_seconds, first_200
from benches.peers import PROXY_CPU
from benches.results import Row, ms
from benches.world import Bench, api_environment
from shellwego.client import TokenCredential, connect
from shellwego.core.apps import AppStatus
from shellwego.kit.ports import free_ports
from shellwego.processes.cloud import Cloud, ensure_cloud
from shellwego.protocol.public import DeploymentCreate, ResourceAmounts

APPS = 1000
AIM = 1.2
SECONDS = 30
PAUSE_SECONDS = 0.02
AT_ONCE = 8
DEPLOYED_SECONDS = 900
SETTLED_SECONDS = 120
"""After the fifth failure in a row, everybody's pause is the longest: a minute."""
RESOURCES = ResourceAmounts(memory_mib=16, cpu_millis=10, pids=16, disk_mib=16)


def run(bench: Bench) -> list[Row]:
    return asyncio.run(_run(bench))


async def _run(bench: Bench) -> list[Row]:
    apps = APPS // 10 if bench.quick else APPS
    directory = bench.directory / "storm"
    (directory / "registry").mkdir(parents=True)
    async with _server(bench, directory) as (cloud, server, token, http):
        with running_registry(directory / "registry") as registry:
            switch = directory / "switch"
            command = ("-m", "benches.storm_agent", directory / "node", cloud.control_socket, switch)
            bench.spawn((sys.executable, *command), output="storm-agent", env=api_environment())
            image = registry.push(busybox_layout(directory / "layout", cmd=("serve",)), "good:1")
            bench.say(f"deploying {apps} apps")
            await _deploy(cloud, token, apps, image)
        seconds = SECONDS // 3 if bench.quick else SECONDS
        visitor = _Visitor(http, server.pid)
        await visitor.visit(3)  # Warm.
        quiet = await visitor.visit(seconds)
        switch.touch()
        onset = await visitor.visit(seconds)
        bench.say("until each waits for its longest pause")
        await asyncio.sleep(SETTLED_SECONDS // 10 if bench.quick else SETTLED_SECONDS)
        storm = await visitor.visit(seconds)
    for name, seen in (("quiet", quiet), ("all at once", onset), ("storm", storm)):
        bench.say(f"{name}: {seen}")
    ratio = storm.p99 / quiet.p99
    beside = f"all of them well {ms(quiet.p99)} (median {ms(quiet.median)}), server {quiet.cpu:.1%} of a core"
    return [
        Row(
            f"the API's p99 while {apps:,} apps crash again and again",
            f"{ms(storm.p99)} (median {ms(storm.median)}), server {storm.cpu:.1%} of a core",
            beside,
            f"{ratio:.2f}x",
            f"< {AIM:g}x",
            ratio < AIM,
        ),
        Row(
            f"the same in the {seconds} s after all {apps:,} ended at once",
            f"{ms(onset.p99)} (median {ms(onset.median)}), server {onset.cpu:.1%} of a core",
            beside,
            f"{onset.p99 / quiet.p99:.2f}x",
            "-",
        ),
    ]


@contextlib.asynccontextmanager
async def _server(
    bench: Bench, directory: Path
) -> AsyncIterator[tuple[Cloud, subprocess.Popen[bytes], str, httpx.AsyncClient]]:
    (port,) = free_ports(1)
    cloud = ensure_cloud(directory / "cloud", domain="bench.test", api_port=port)
    command = (sys.executable, "-m", "shellwego.processes.main", "server", "--data-dir", cloud.data)
    process = bench.spawn(command, cpu=PROXY_CPU, output="storm-server", env=api_environment())
    bench.own.callback(_clear, cloud)
    await first_200(port, "localhost", "/metrics")
    token = cloud.admin_token.read_text().strip()
    bearer = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=cloud.api_url, headers=bearer, timeout=60) as http:
        yield cloud, process, token, http


def _clear(cloud: Cloud) -> None:
    with contextlib.suppress(OSError):
        for path in cloud.run.iterdir():
            path.unlink()
        cloud.run.rmdir()


async def _deploy(cloud: Cloud, token: str, apps: int, image: str) -> None:
    names = iter([f"storm-{number}" for number in range(apps)])
    body = DeploymentCreate(image=image, resources=RESOURCES)
    async with connect(cloud.api_url, TokenCredential(token)) as client:

        async def deploy_some() -> None:
            for name in names:
                await client.apps.create(name)
                await client.deployments.create(name, body, idempotency_key=name)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(AT_ONCE):
                tasks.create_task(deploy_some())
        async with asyncio.timeout(DEPLOYED_SECONDS):
            while not all([app.status is AppStatus.RUNNING async for app in client.apps.list()]):  # noqa: ASYNC110
                await asyncio.sleep(2)


@dataclass(frozen=True, slots=True)
class _Seen:
    median: float
    p99: float
    cpu: float
    requests: int

    def __str__(self) -> str:
        return f"median {ms(self.median)}, p99 {ms(self.p99)} of {self.requests}, server {self.cpu:.1%} of a core"


@dataclass
class _Visitor:
    """Somebody who reads and writes all the time, with a pause between two requests as people and programs make."""

    http: httpx.AsyncClient
    server: int
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    async def visit(self, seconds: float) -> _Seen:
        took: list[float] = []
        before, end = cpu_seconds([self.server]), time.monotonic() + seconds
        while time.monotonic() < end:
            number = next(self._numbers)
            app = f"/v1/apps/storm-{number % 50}"
            for method, path, body in (
                ("GET", app, None),
                ("GET", f"/v1/instances?limit=50&anew={number}", None),
                ("PATCH", app, {"replicas": {"web": 1}}),
                ("POST", "/v1/apps", {"name": f"visitor-{number}"}),
            ):
                began = time.perf_counter()
                answer = await self.http.request(method, path, json=body)
                took.append(time.perf_counter() - began)
                answer.raise_for_status()
                await asyncio.sleep(PAUSE_SECONDS)
        cpu = (cpu_seconds([self.server]) - before) / seconds
        return _Seen(statistics.median(took), statistics.quantiles(took, n=100)[98], cpu, len(took))
