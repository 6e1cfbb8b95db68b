"""Does an app that misbehaves slow its neighbour?"""

from __future__ import annotations

import asyncio
import os

from benches.measure import median, until
from benches.results import Row, ms
from benches.world import DOMAIN, Bench, CloudUnderTest
from shellwego.kit.load import Target, constant_load

AIM = 1.2
TURNS = 2
SECONDS = 5.0
_ALLOCATE = "a=[]\nwhile True: a.append(bytearray(1<<20))"
_OPEN = "import os\nf=[]\nwhile True:\n try: f.append(os.open('/dev/null',0))\n except OSError: pass"
HOGS = {
    "CPU": ["sh", "-c", "while :; do while :; do :; done & wait; done"],
    "fork bomb": ["sh", "-c", "while :; do sleep 1000 & done"],
    "memory": ["python3", "-c", _ALLOCATE],
    "disk": ["sh", "-c", "while :; do dd if=/dev/zero of=/fill bs=1M count=200 2>/dev/null; done"],
    "log": ["sh", "-c", "yes 'a line that nobody wants'"],
    "open files": ["python3", "-c", _OPEN],
}


def run(bench: Bench) -> list[Row]:
    return asyncio.run(_run(bench, bench.cloud()))


async def _run(bench: Bench, cloud: CloudUnderTest) -> list[Row]:
    image = cloud.image("flask")
    amounts = {"memory_mib": 128, "cpu_millis": 500, "pids": 64, "disk_mib": 128}
    cloud.image("node")
    names = {}
    for kind, command in HOGS.items():
        name = names[kind] = f"hog-{kind.lower().replace(' ', '-')}"
        cloud.call("POST", "/v1/apps", {"name": name})
        cloud.call("POST", f"/v1/apps/{name}/stop")
        body = {
            "image": image,
            "resources": amounts,
            "processes": {"web": {"command": command, "health": {"kind": "none"}}},
        }
        cloud.call("POST", f"/v1/apps/{name}/deployments", body)
    ratios: dict[str, list[float]] = {kind: [] for kind in HOGS}
    late: dict[str, list[float]] = {kind: [] for kind in HOGS}
    alone: list[float] = []
    for _ in range(bench.turns(TURNS)):
        for kind, name in names.items():
            quiet = await _p99(cloud)
            cloud.call("POST", f"/v1/apps/{name}/start")
            await until(lambda name=name: cloud.instances(name), f"{name} runs", seconds=30)
            await asyncio.sleep(2)
            loud = await _p99(cloud)
            cloud.call("POST", f"/v1/apps/{name}/stop")
            await until(lambda name=name: not cloud.instances(name), f"{name} is gone", seconds=60)
            alone.append(quiet)
            late[kind].append(loud)
            ratios[kind].append(loud / quiet)
            bench.say(f"{kind}: {ms(loud)} of {ms(quiet)}")
    for name in names.values():
        cloud.delete(name)
    return [
        Row(
            f"neighbour's p99 beside a hog: {kind}",
            ms(median(late[kind])),
            f"alone {ms(median(alone))}",
            f"{median(ratios[kind]):.2f}x",
            f"< {AIM}x",
            median(ratios[kind]) < AIM,
        )
        for kind in HOGS
    ]


async def _p99(cloud: CloudUnderTest) -> float:
    """Of a Node app under a light load."""

    def measure() -> float:
        # Visitors have machines of their own: these few must not be what a hog on this one slows down.
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
        target = Target("127.0.0.1", cloud.running.http_port, "/", {"Host": f"built-node.{DOMAIN}"})
        try:
            with constant_load(target, clients=2) as load:
                load.stop.wait(SECONDS)
        finally:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        if load.failures:
            raise RuntimeError(f"{len(load.failures)} requests failed: {load.failures[0]}")
        return load.p99_seconds

    return await asyncio.to_thread(measure)
