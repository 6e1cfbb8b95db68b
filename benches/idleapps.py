"""A hundred apps that do nothing, shared by the figures of memory and of idle cost."""

from __future__ import annotations

import asyncio

from benches.measure import until
from benches.world import Bench, CloudUnderTest

APPS = 100
AMOUNTS = {"memory_mib": 64, "cpu_millis": 140, "pids": 64, "disk_mib": 32}


async def ensure_idle_apps(bench: Bench, cloud: CloudUnderTest) -> None:
    """All of them healthy, and a while of quiet after that."""
    there = {app["name"] for app in cloud.apps()}
    missing = [name for number in range(APPS) if (name := f"idle-{number}") not in there]
    if not missing:
        return
    image = cloud.image("static")
    bench.say(f"deploying {len(missing)} apps")
    for name in missing:
        await asyncio.to_thread(cloud.deploy_image, name, image, resources=AMOUNTS)
    await until(lambda: cloud.healthy("idle-") == APPS, f"{APPS} healthy instances", seconds=300, every_seconds=0.5)
    await asyncio.sleep(10)
