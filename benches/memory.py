"""How much memory do our processes take, and what does each idle instance cost beside its sandbox?"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

from benches.idleapps import APPS, ensure_idle_apps
from benches.measure import median, memory_bytes
from benches.results import Row, mb
from benches.sandboxes import sandboxes
from benches.start import find_program
from benches.world import Bench, CloudUnderTest

SERVER_AIM, AGENT_AIM, INSTANCE_AIM = 120e6, 80e6, 3e6
OURS = ("server", "agent", "edge", "haproxy")


def run(bench: Bench) -> list[Row]:
    return asyncio.run(_run(bench, bench.cloud()))


async def _run(bench: Bench, cloud: CloudUnderTest) -> list[Row]:
    cloud.image("static")
    before = {name: memory_bytes(cloud.pids(name)) for name in OURS}
    await ensure_idle_apps(bench, cloud)
    after = {name: memory_bytes(cloud.pids(name)) for name in OURS}
    everything = sum(after.values()) + memory_bytes(cloud.pids("up"))
    instances = cloud.instances("idle-")
    monitors = median([memory_bytes(_monitors(id)) for id in instances])
    sandbox = median([memory_bytes(set(_processes(id)) - set(_monitors(id))) for id in instances])
    grown = sum(after[name] - before[name] for name in OURS) / APPS
    program = await find_program(cloud, "static")
    async with sandboxes(bench) as here:
        bare: list[float] = []

        async def look(id: str) -> None:
            bare.append(memory_bytes(_processes(id)))

        for _ in range(bench.turns(3)):
            await here.start_bare("gvisor", program, meanwhile=look)
    cost = monitors + max(0.0, grown)
    where = f"with {APPS} apps"
    return [
        Row(f"memory of the server, {where}", mb(after["server"]), "-", "-", "< 120 MB", after["server"] < SERVER_AIM),
        Row(f"memory of the agent, {where}", mb(after["agent"]), "-", "-", "< 80 MB", after["agent"] < AGENT_AIM),
        Row(f"memory of the edge and its HAProxy, {where}", f"{mb(after['edge'])} + {mb(after['haproxy'])}"),
        Row(
            f"memory of the whole platform, {where}",
            mb(everything),
            "Coolify's and Dokploy's published minimum 2 GB",
            f"{everything / 2e9:.2f} of it",
        ),
        Row(
            "memory per idle instance beside the sandbox itself",
            f"{mb(cost)} (monitor {mb(monitors)}, our processes {mb(grown)})",
            f"the sandbox {mb(sandbox)}, bare `runsc run` {mb(median(bare))}",
            f"{sandbox / median(bare):.2f}x of bare for the sandbox",
            "< 3 MB",
            cost < INSTANCE_AIM,
        ),
    ]


def _processes(id: str) -> Iterable[int]:
    """Every process that names the instance, and their children, which for a sandbox's stubs have no such name."""
    found, parents = set(), {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command = (path / "cmdline").read_bytes()
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if id.encode() in command:
            found.add(int(path.name))
    size = -1
    while size != len(found):
        size = len(found)
        found |= {pid for pid, parent in parents.items() if parent in found}
    return found


def _monitors(id: str) -> Iterable[int]:
    for pid in _processes(id):
        try:
            if Path(f"/proc/{pid}/comm").read_text().strip() == "conmon":
                yield pid
        except OSError:
            continue
