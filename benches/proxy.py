"""How much of HAProxy's speed is left when it is our edge?"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from benches.edge import an_edge
from benches.measure import alternate, cpu_seconds, first_200, median, wrk
from benches.peers import LOAD_CPU, BareHAProxy, Peer, Site, hosts, make_peers, start_backend
from benches.results import Row, ms
from benches.world import Bench
from shellwego.processes.engines_found import find_engines

AIM = 0.95
HOSTS = 101
TURNS = 4
SECONDS = 2
CONNECTIONS = 32


def run(bench: Bench) -> list[Row]:
    return asyncio.run(_run(bench))


async def _run(bench: Bench) -> list[Row]:
    haproxy = find_engines().haproxy
    backend = start_backend(bench, haproxy)
    rows = []
    async with an_edge(bench, haproxy, backend, hosts(HOSTS)) as edge:
        site = Site(hosts(HOSTS), backend, edge.certificate)
        sides: dict[str, Peer] = {"edge": edge, "haproxy": BareHAProxy(bench, site, haproxy)}
        peers = make_peers(bench, site)
        for peer in (*sides.values(), *peers.values()):
            await first_200(peer.http_port, hosts(HOSTS)[-1], seconds=60)
        for scheme in ("http", "https"):
            loads = {name: _Load(bench, name, peer, scheme) for name, peer in {**sides, **peers}.items()}
            seen = await alternate(bench.turns(TURNS), {name: loads[name].run for name in sides})
            # The twin is what the aim speaks of; the others show where one would be without us.
            seen |= await alternate(bench.turns(2), {name: loads[name].run for name in peers})
            # By turns, since a slow moment of the machine meets both sides of one.
            share = median([a / b for a, b in zip(seen["edge"], seen["haproxy"], strict=True)])
            rates = {name: median(load.rates) for name, load in loads.items()}
            bench.say(f"{scheme}: " + ", ".join(f"{name} {rate:,.0f}/s" for name, rate in rates.items()))
            rows.append(
                Row(
                    f"requests through the edge, {scheme}",
                    _told(rates["edge"], seen["edge"]),
                    "; ".join(f"{_shown(name)} {_told(rates[name], seen[name])}" for name in rates if name != "edge"),
                    f"{share:.2f} of bare per CPU second",
                    f"> {AIM}",
                    share > AIM,
                )
            )
            late = {name: median(load.p99) for name, load in loads.items()}
            rows.append(
                Row(
                    f"p99 through the edge, {scheme}, {CONNECTIONS} connections",
                    ms(late["edge"]),
                    ", ".join(f"{_shown(name)} {ms(value)}" for name, value in late.items() if name != "edge"),
                    f"{late['edge'] / late['haproxy']:.2f}x of bare",
                )
            )
    return rows


@dataclass
class _Load:
    """Load on one proxy, told in requests for each second of its CPU: the same whoever else needs the machine."""

    bench: Bench
    name: str
    peer: Peer
    scheme: str
    rates: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)

    async def run(self) -> float:
        port = self.peer.http_port if self.scheme == "http" else self.peer.https_port
        before = cpu_seconds(self.peer.pids())
        seen = await asyncio.to_thread(
            wrk,
            f"{self.scheme}://127.0.0.1:{port}/",
            seconds=SECONDS,
            connections=CONNECTIONS,
            headers={"Host": hosts(HOSTS)[HOSTS // 2]},
            cpu=LOAD_CPU,
        )
        used = cpu_seconds(self.peer.pids()) - before
        if seen.failures and self.name in {"edge", "haproxy"}:
            raise RuntimeError(f"{self.name}: {seen.failures} requests failed")
        if seen.failures:
            self.bench.note(f"{self.name} failed requests under this load over {self.scheme}.")
        self.rates.append(seen.requests_per_second)
        self.p99.append(seen.p99_seconds)
        return seen.requests / used


def _told(rate: float, per_cpu_second: list[float]) -> str:
    return f"{rate:,.0f}/s, {median(per_cpu_second):,.0f} per CPU second"


def _shown(name: str) -> str:
    return "bare HAProxy" if name == "haproxy" else name
