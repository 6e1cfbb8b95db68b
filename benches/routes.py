"""How long from a change of the routes to the first answer, and does it stay flat as hosts grow?"""

from __future__ import annotations

import asyncio
import contextlib
import itertools

from benches.edge import EdgeUnderTest, an_edge
from benches.measure import Side, alternate, first_200, median
from benches.peers import Peer, Site, hosts, make_peers, start_backend
from benches.results import Row, ms
from benches.world import DOMAIN, Bench, now
from shellwego.processes.engines_found import find_engines

AIM_SECONDS = 0.020
COUNTS = (10, 1_000, 5_000)
TURNS = 4


def run(bench: Bench) -> list[Row]:
    return asyncio.run(_run(bench))


async def _run(bench: Bench) -> list[Row]:
    haproxy = find_engines().haproxy
    backend = start_backend(bench, haproxy)
    rows = []
    flat: list[float] = []
    for count in COUNTS:
        async with an_edge(bench, haproxy, backend, hosts(count)) as edge:
            with contextlib.ExitStack() as own:
                outer, bench.own = bench.own, own
                try:
                    peers = make_peers(bench, Site(hosts(count), backend, edge.certificate))
                    for name, peer in peers.items():
                        bench.say(f"{name} reads {count} hosts")
                        await first_200(peer.http_port, hosts(count)[-1], seconds=120)
                    seen = await alternate(bench.turns(TURNS), _sides({"edge": edge, **peers}), rest_seconds=0.7)
                finally:
                    bench.own = outer
        bench.say(f"{count} hosts: {', '.join(f'{name} {ms(median(values))}' for name, values in seen.items())}")
        medians = {name: median(values) for name, values in seen.items()}
        ours = medians.pop("edge")
        flat.append(ours)
        best = min(medians.values(), default=0.0)
        rows.append(
            Row(
                f"route change to first 200, {count:,} hosts",
                ms(ours),
                ", ".join(f"{name} {ms(value)}" for name, value in medians.items()) or "no peer",
                f"{best / ours:.1f}x sooner than the best" if best else "-",
                f"< {AIM_SECONDS * 1000:.0f} ms",
                ours < AIM_SECONDS,
            )
        )
    rows.append(
        Row(
            "the same, how flat: 5,000 hosts beside 10",
            ms(flat[-1]),
            ms(flat[0]),
            f"{flat[-1] / flat[0]:.1f}x",
            "flat: < 20 ms at each",
            all(value < AIM_SECONDS for value in flat),
        )
    )
    return rows


def _sides(peers: dict[str, Peer]) -> dict[str, Side]:
    return {name: _side(name, peer) for name, peer in peers.items()}


def _side(name: str, peer: Peer) -> Side:
    numbers = itertools.count()

    async def one() -> float:
        host = f"{name}-new{next(numbers)}.{DOMAIN}"
        if isinstance(peer, EdgeUnderTest):
            await peer.prepare(host)
        began = now()
        peer.add_host(host)
        return await first_200(peer.http_port, host, seconds=60) - began

    return one
