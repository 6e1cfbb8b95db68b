"""What do our rules, our store and our validation cost on top of FastAPI and its server?"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benches.measure import Side, alternate, cpu_seconds, first_200, median, until, wrk
from benches.peers import LOAD_CPU, PROXY_CPU
from benches.results import Row
from benches.world import Bench, api_environment
from shellwego.kit.ports import free_ports

APPS, PAGE = 10_000, 50
LIST_AIM, CREATE_AIM = 0.5, 0.15
TURNS = 3
SECONDS = 3
CONNECTIONS = 16


def run(bench: Bench) -> list[Row]:
    return asyncio.run(_run(bench))


async def _run(bench: Bench) -> list[Row]:
    hello, hello_pid, _ = await _start(bench, "hello")
    api, api_pid, token = await _start(bench, "cloud")
    await first_200(hello, "localhost", "/hello")
    await first_200(api, "localhost", "/metrics", seconds=120)
    bearer = {"Authorization": f"Bearer {token}"}
    create = bench.directory / "create.lua"
    create.write_text(
        'wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/json"\nlocal count = 0\n'
        # A name of its own for each request, over all turns.
        "local start = os.time()\n"
        "request = function()\n  count = count + 1\n"
        '  return wrk.format(nil, nil, nil, string.format(\'{"name": "n%d-%d"}\', start, count))\nend\n'
    )
    anew = bench.directory / "anew.lua"
    anew.write_text(
        # An address of its own for each request, so that no answer is a kept one.
        "local count = 0\nlocal start = os.time()\nrequest = function()\n  count = count + 1\n"
        f'  return wrk.format(nil, string.format("/v1/apps?limit={PAGE}&anew=%d-%d", start, count))\nend\n'
    )
    rows = []
    page = f"GET /v1/apps, page of {PAGE} of {APPS:,}"
    for title, path, script, aim in (
        (page, f"/v1/apps?limit={PAGE}", None, LIST_AIM),
        (f"{page}, made anew each time", f"/v1/apps?limit={PAGE}", anew, None),
        ("POST /v1/apps", "/v1/apps", create, CREATE_AIM),
    ):
        ours, bare = _Load(api, api_pid, path, bearer, script), _Load(hello, hello_pid, "/hello")
        sides: Mapping[str, Side] = {"ours": ours.run, "hello": bare.run}
        seen = await alternate(bench.turns(TURNS), sides)
        share = median([a / b for a, b in zip(seen["ours"], seen["hello"], strict=True)])
        bench.say(f"{title}: {median(ours.rates):,.0f}/s of {median(bare.rates):,.0f}/s, per CPU second {share:.2f}")
        rows.append(
            Row(
                title,
                f"{median(ours.rates):,.0f} requests/s, {median(seen['ours']):,.0f} per CPU second",
                f"FastAPI hello {median(bare.rates):,.0f}, {median(seen['hello']):,.0f} per CPU second",
                f"{share:.2f} per CPU second",
                f"> {aim}" if aim is not None else "-",
                share > aim if aim is not None else None,
            )
        )
    return rows


async def _start(bench: Bench, kind: str) -> tuple[int, int, str]:
    (port,) = free_ports(1)
    directory = bench.directory / f"api-{kind}"
    directory.mkdir(exist_ok=True)
    command = (sys.executable, "-m", "benches.api_server", kind, directory, str(port), str(APPS))
    process = bench.spawn(command, cpu=PROXY_CPU, output=f"api-{kind}", env=api_environment())
    log: Path = bench.directory / f"api-{kind}.log"
    await until(
        lambda: process.poll() is not None or "ready " in log.read_text(), f"the {kind} server is ready", seconds=120
    )
    if process.poll() is not None:
        raise RuntimeError(f"the {kind} server ended: {log.read_text()[-2000:]}")
    return port, process.pid, log.read_text().split("ready ", 1)[1].split()[0]


@dataclass
class _Load:
    """Load on one server, told in requests for each second of its CPU: the same whoever else needs the machine."""

    port: int
    pid: int
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    script: Path | None = None
    rates: list[float] = field(default_factory=list)

    async def run(self) -> float:
        before = cpu_seconds([self.pid])
        seen = await asyncio.to_thread(
            wrk,
            f"http://127.0.0.1:{self.port}{self.path}",
            seconds=SECONDS,
            connections=CONNECTIONS,
            headers=self.headers,
            script=self.script,
            cpu=LOAD_CPU,
        )
        if seen.failures:
            raise RuntimeError(f"{self.path}: {seen.failures} requests failed")
        self.rates.append(seen.requests_per_second)
        return seen.requests / (cpu_seconds([self.pid]) - before)
