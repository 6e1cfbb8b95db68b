"""How much of HAProxy's speed is left when it is our edge?"""

from __future__ import annotations

import asyncio

from benches.edge import an_edge
from benches.measure import Side, alternate, first_200, median, wrk
from benches.peers import LOAD_CPU, BareHAProxy, Peer, Site, hosts, make_peers, start_backend
from benches.results import Row, ms
from benches.world import Bench
from shellwego.processes.engines_found import find_engines

AIM = 0.95
HOSTS = 101
TURNS = 6
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
            p99: dict[str, list[float]] = {}
            seen = await alternate(
                bench.turns(TURNS), {name: _side(bench, name, peer, scheme, p99) for name, peer in sides.items()}
            )
            # The twin is what the aim speaks of; the others show where one would be without us.
            seen |= await alternate(
                bench.turns(2), {name: _side(bench, name, peer, scheme, p99) for name, peer in peers.items()}
            )
            rates = {name: median(values) for name, values in seen.items()}
            ours, bare = rates.pop("edge"), rates["haproxy"]
            # By turns, since a slow moment of the machine meets both sides of one.
            share = median([a / b for a, b in zip(seen["edge"], seen["haproxy"], strict=True)])
            rows.append(
                Row(
                    f"requests/s through the edge, {scheme}",
                    f"{ours:,.0f}",
                    ", ".join(f"{_shown(name)} {rate:,.0f}" for name, rate in rates.items()),
                    f"{share:.2f} of bare",
                    f"> {AIM}",
                    share > AIM,
                )
            )
            late = {name: median(values) for name, values in p99.items()}
            mine = late.pop("edge")
            rows.append(
                Row(
                    f"p99 through the edge, {scheme}, {CONNECTIONS} connections",
                    ms(mine),
                    ", ".join(f"{_shown(name)} {ms(value)}" for name, value in late.items()),
                    f"{mine / late['haproxy']:.2f}x of bare",
                )
            )
            bench.say(f"{scheme}: edge {ours:,.0f}, bare {bare:,.0f}, {share:.2f}")
    return rows


def _side(bench: Bench, name: str, peer: Peer, scheme: str, p99: dict[str, list[float]]) -> Side:
    port = peer.http_port if scheme == "http" else peer.https_port
    headers = {"Host": hosts(HOSTS)[HOSTS // 2]}
    late = p99.setdefault(name, [])

    async def one() -> float:
        seen = await asyncio.to_thread(
            wrk,
            f"{scheme}://127.0.0.1:{port}/",
            seconds=SECONDS,
            connections=CONNECTIONS,
            headers=headers,
            cpu=LOAD_CPU,
        )
        if seen.failures and name in {"edge", "haproxy"}:
            raise RuntimeError(f"{name}: {seen.failures} requests failed")
        if seen.failures:
            bench.note(f"{name} failed requests under this load over {scheme}.")
        late.append(seen.p99_seconds)
        return seen.requests_per_second

    return one


def _shown(name: str) -> str:
    return "bare HAProxy" if name == "haproxy" else name
