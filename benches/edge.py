"""The edge by itself: the process as `shellwego up` starts it, told its routes by a server that the bench plays."""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.contract.edge_world import FakeServer

from benches.measure import until
from benches.peers import PROXY_CPU
from benches.world import DOMAIN, Bench, end, free_ports
from shellwego.edge.haproxy import HAProxy
from shellwego.processes.edge import EdgeOptions, stop_proxy
from shellwego.protocol.messages import Route, RouteServer


class EdgeUnderTest:
    """Serves `hosts` from one backend."""

    def __init__(self, server: FakeServer, options: EdgeOptions, backend_port: int, pid: int) -> None:
        self.http_port, self.https_port = options.http_port, options.https_port
        self._server, self._options, self._backend_port = server, options, backend_port
        self._routes: list[Route] = []
        self._pid = pid

    def serve(self, hosts: tuple[str, ...]) -> None:
        self._routes = [self._route(host) for host in hosts]
        self._server.ask(*self._routes)

    def add_host(self, host: str) -> None:
        """As the server does it: all routes, whole, with one more."""
        self._routes.append(self._route(host))
        self._server.ask(*self._routes)

    def pids(self) -> list[int]:
        """The edge's own process too: it reads HAProxy's log."""
        proxy = HAProxy(Path("haproxy"), self._options.paths, namespace=None, on_death=lambda: None)
        return [self._pid, *proxy.find_processes()]

    @property
    def certificate(self) -> Path:
        """Key and chain of the domain's wildcard."""
        return next(iter((self._options.data_dir / "edge" / "certificates").glob("*.pem")))

    def _route(self, host: str) -> Route:
        name = host.split(".", 1)[0]
        server = RouteServer(instance=f"ins_{name}", address="127.0.0.1", port=self._backend_port)
        return Route(app=f"app_{name}", app_name=name, organisation="org_bench", hosts=[host], servers=[server])


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
    server = FakeServer(options.run_dir / "control.sock", DOMAIN)
    await server.start()
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
        edge = EdgeUnderTest(server, options, backend_port, process.pid)
        edge.serve(hosts)
        generation = server.generation
        await until(lambda: any(r.generation == generation for r in server.reports), "the edge serves", seconds=120)
        yield edge
    finally:
        await asyncio.to_thread(end, process)
        await stop_proxy(options, grace_seconds=0.5)
        await server.stop()
        shutil.rmtree(base, ignore_errors=True)
