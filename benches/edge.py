"""The edge: the process as `shellwego up` starts it, told its routes by the part of the server that tells edges."""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from benches.measure import until
from benches.peers import PROXY_CPU
from benches.routes_server import RoutesServer, a_routes_server
from benches.world import DOMAIN, Bench, end
from shellwego.edge.haproxy import HAProxy
from shellwego.kit.ports import free_ports
from shellwego.processes.edge import EdgeOptions, stop_proxy


class EdgeUnderTest:
    """Serves its hosts from one backend."""

    def __init__(self, server: RoutesServer, options: EdgeOptions, pid: int) -> None:
        self.http_port, self.https_port = options.http_port, options.https_port
        self._server, self._options, self._pid = server, options, pid

    async def prepare(self, host: str) -> None:
        """An app that is deployed, and whose instance is still starting."""
        await self._server.add_starting(host)
        generation = self._server.generation
        await until(lambda: self._server.generation > generation, "the edge knows the app")

    def add_host(self, host: str) -> None:
        """Its instance is healthy now."""
        self._server.call_healthy(host)

    def pids(self) -> list[int]:
        """The edge's own process too: it reads HAProxy's log."""
        proxy = HAProxy(Path("haproxy"), self._options.paths, namespace=None, on_death=lambda: None)
        return [self._pid, *proxy.find_processes()]

    @property
    def certificate(self) -> Path:
        """Key and chain of the domain's wildcard."""
        return next(iter((self._options.data_dir / "edge" / "certificates").glob("*.pem")))


@asynccontextmanager
async def an_edge(
    bench: Bench, haproxy: Path, backend_port: int, hosts: tuple[str, ...]
) -> AsyncIterator[EdgeUnderTest]:
    """An edge of its own for the block, in the host's network and on core 0, HAProxy with it."""
    base = bench.directory / f"edge{time.monotonic_ns() % 10**6}"
    http_port, https_port = free_ports(2)
    options = EdgeOptions(
        data_dir=base / "data",
        run_dir=base / "run",
        domain=DOMAIN,
        address="127.0.0.1",
        http_port=http_port,
        https_port=https_port,
        haproxy=haproxy,
    )
    options.run_dir.mkdir(parents=True)
    for directory in (base, options.run_dir):
        directory.chmod(0o755)
    process = bench.spawn(
        (
            *(sys.executable, "-m", "shellwego.processes.edge"),
            *("--data-dir", options.data_dir, "--run-dir", options.run_dir, "--domain", DOMAIN),
            *("--address", options.address, "--haproxy", haproxy),
            *("--http-port", str(http_port), "--https-port", str(https_port)),
        ),
        cpu=PROXY_CPU,
        output="edge",
    )
    try:
        async with a_routes_server(base, options.run_dir / "control.sock", DOMAIN, backend_port, hosts) as server:
            await until(lambda: server.generation, "the edge serves", seconds=120)
            yield EdgeUnderTest(server, options, process.pid)
            await asyncio.to_thread(end, process)
    finally:
        await asyncio.to_thread(end, process)
        await stop_proxy(options, grace_seconds=0.5)
        shutil.rmtree(base, ignore_errors=True)
