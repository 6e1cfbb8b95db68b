"""What do a hundred idle apps cost, and how soon is all in order after server and agent died?"""

from __future__ import annotations

import asyncio

from benches.idleapps import APPS, ensure_idle_apps
from benches.measure import cpu_seconds, median, until
from benches.results import Row
from benches.world import Bench, CloudUnderTest, now

CPU_AIM, RESTART_AIM_SECONDS = 0.03, 5.0
SECONDS = 60
TURNS = 2


def run(bench: Bench) -> list[Row]:
    return asyncio.run(_run(bench, bench.cloud()))


async def _run(bench: Bench, cloud: CloudUnderTest) -> list[Row]:
    await ensure_idle_apps(bench, cloud)
    seconds = SECONDS // 2 if bench.quick else SECONDS
    bench.say(f"watching for {seconds} s")
    names = ("server", "agent", "edge", "haproxy")
    before = {name: cpu_seconds(cloud.pids(name)) for name in names}
    await asyncio.sleep(seconds)
    share = {name: (cpu_seconds(cloud.pids(name)) - before[name]) / seconds for name in names}
    together = share["server"] + share["agent"]
    bench.say(", ".join(f"{name} {value:.1%}" for name, value in share.items()))
    restarts = []
    for turn in range(bench.turns(TURNS)):
        if turn:
            await asyncio.sleep(31)  # Younger than this, a process that ends again is started with a pause.
        restarts.append(await _restart(cloud))
        bench.say(f"restart: {restarts[-1]:.2f} s")
    return [
        Row(
            f"CPU of server and agent, {APPS} idle apps",
            f"{together:.1%} of a core (server {share['server']:.1%}, agent {share['agent']:.1%})",
            f"edge {share['edge']:.1%}, HAProxy {share['haproxy']:.1%}",
            "-",
            f"< {CPU_AIM:.0%}",
            together < CPU_AIM,
        ),
        Row(
            f"server and agent killed with {APPS} apps, until a wish made at once is fulfilled",
            f"{median(restarts):.1f} s",
            "-",
            "-",
            f"< {RESTART_AIM_SECONDS:g} s",
            median(restarts) < RESTART_AIM_SECONDS,
        ),
    ]


async def _restart(cloud: CloudUnderTest) -> float:
    """
    Kill both; ask for one more instance as soon as anybody listens. It is healthy only when the server has started,
    the agent has found all that runs, both have met, and the node was planned anew: reconciled.
    """
    wanted = APPS + 1
    began = now()
    await asyncio.to_thread(cloud.running.kill, "server", "agent")
    await until(lambda: _scaled(cloud, 2), "the API answers", seconds=60)
    await until(lambda: cloud.healthy("idle-") >= wanted, f"{wanted} healthy instances", seconds=60)
    took = now() - began
    _scaled(cloud, 1)
    await until(lambda: cloud.healthy("idle-") == wanted - 1, f"{wanted - 1} healthy instances", seconds=60)
    return took


def _scaled(cloud: CloudUnderTest, count: int) -> bool:
    try:
        cloud.call("PATCH", "/v1/apps/idle-0", {"replicas": {"web": count}})
    except RuntimeError:
        return False
    return True
