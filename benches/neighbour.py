"""Does an app that misbehaves slow its neighbour?

A hog is started once and then stopped and continued by signals, so that moments with it and without it can be short and
many, and what else the machine does meets both.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import statistics
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benches.measure import until
from benches.results import Row, ms
from benches.world import DOMAIN, Bench, CloudUnderTest
from shellwego.kit.load import Target, constant_load

AIM = 1.2
TURNS = 10
SECONDS = 1.0
SETTLE_SECONDS = 0.2
NEIGHBOUR = "built-node"
# All stay at their limit and live on: one that ends of it is started again later, and is away for most of the time.
_FORK = "import os\nwhile True:\n try:\n  if os.fork() == 0: os.execlp('sleep', 'sleep', '999')\n except OSError: pass"
_ALLOCATE = "while True: a = None; a = bytearray(90 << 20)"
_OPEN = "import os\nf=[]\nwhile True:\n try: f.append(os.open('/dev/null',0))\n except OSError: pass"
HOGS = {
    "CPU": ["sh", "-c", "while :; do while :; do :; done & wait; done"],
    "fork bomb": ["python3", "-c", _FORK],
    "memory": ["python3", "-c", _ALLOCATE],
    "disk": ["sh", "-c", "while :; do dd if=/dev/zero of=/fill bs=1M count=200 2>/dev/null; done"],
    "log": ["sh", "-c", "yes 'a line that nobody wants'"],
    "open files": ["python3", "-c", _OPEN],
}


def run(bench: Bench) -> list[Row]:
    return asyncio.run(_run(bench, bench.cloud()))


async def _run(bench: Bench, cloud: CloudUnderTest) -> list[Row]:
    image = cloud.image("flask")
    cloud.image("node")
    await _visit(cloud)  # Warms it up.
    rows = []
    for kind, command in HOGS.items():
        name = f"hog-{kind.lower().replace(' ', '-')}"
        cloud.deploy_image(
            name,
            image,
            resources={"memory_mib": 128, "cpu_millis": 500, "pids": 64, "disk_mib": 128},
            processes={"web": {"command": command, "health": {"kind": "none"}}},
        )
        await until(partial(cloud.healthy, name), f"{name} runs", seconds=60)
        seen = await _alternate(cloud, name, bench.turns(TURNS))
        cloud.delete(name)
        await until(partial(_is_gone, cloud, name), f"{name} is gone", seconds=60)
        ratio = _p99(seen.beside) / _p99(seen.alone)
        bench.say(f"{kind}: {ratio:.2f}, {seen.told}")
        rows.append(
            Row(
                f"neighbour's p99 beside a hog: {kind}",
                f"{ms(_p99(seen.beside))} ({seen.told})",
                f"alone {ms(_p99(seen.alone))}",
                f"{ratio:.2f}x",
                f"< {AIM}x",
                ratio < AIM,
            )
        )
    return rows


def _is_gone(cloud: CloudUnderTest, app: str) -> bool:
    return not cloud.instances(app)


@dataclass
class _Seen:
    """How long visits to the neighbour took, and the CPU that it and the hog had in the hog's moments."""

    alone: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)
    hog_cpu: float = 0.0
    neighbour_cpu: float = 0.0
    seconds: float = 0.0

    @property
    def told(self) -> str:
        return f"of a core: hog {self.hog_cpu / self.seconds:.0%}, neighbour {self.neighbour_cpu / self.seconds:.0%}"


async def _alternate(cloud: CloudUnderTest, hog: str, turns: int) -> _Seen:
    seen = _Seen()
    hogs, neighbours = _groups(cloud, hog), _groups(cloud, NEIGHBOUR)
    for turn in range(turns):
        # Now one first and now the other, since what the one leaves behind burdens the next.
        for loud in (False, True) if turn % 2 else (True, False):
            _signal(hogs, signal.SIGCONT if loud else signal.SIGSTOP)
            await asyncio.sleep(SETTLE_SECONDS)
            before = _cpu(hogs), _cpu(neighbours)
            times = await _visit(cloud)
            if not loud:
                seen.alone += times
                continue
            seen.beside += times
            seen.hog_cpu += _cpu(hogs) - before[0]
            seen.neighbour_cpu += _cpu(neighbours) - before[1]
            seen.seconds += SECONDS
    _signal(hogs, signal.SIGCONT)
    return seen


async def _visit(cloud: CloudUnderTest) -> list[float]:
    """The seconds that each request to a Node app took under a light load."""

    def measure() -> list[float]:
        # Visitors have machines of their own: these few must not be what a hog on this one slows down.
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
        target = Target("127.0.0.1", cloud.running.http_port, "/", {"Host": f"{NEIGHBOUR}.{DOMAIN}"})
        try:
            with constant_load(target, clients=2) as load:
                load.stop.wait(SECONDS)
        finally:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        if load.failures:
            raise RuntimeError(f"{len(load.failures)} requests failed: {load.failures[0]}")
        return load.seconds

    return await asyncio.to_thread(measure)


def _p99(times: list[float]) -> float:
    return statistics.quantiles(times, n=100)[98]


def _groups(cloud: CloudUnderTest, app: str) -> list[Path]:
    """The control groups, in either version, of an app's sandboxes; who watches them is elsewhere."""
    system = Path("/sys/fs/cgroup")
    return [
        path
        for instance in cloud.instances(app)
        for path in (*system.glob(f"cpuacct/shellwego/*/{instance}"), *system.glob(f"shellwego/*/{instance}"))
    ]


def _signal(groups: list[Path], number: signal.Signals) -> None:
    # Twice, for what was born while the list was read.
    for group in (*groups, *groups):
        for pid in (group / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), number)


def _cpu(groups: list[Path]) -> float:
    """The seconds of CPU that they had since they began."""
    total = 0.0
    for group in groups:
        if (group / "cpuacct.usage").exists():
            total += int((group / "cpuacct.usage").read_text()) / 1e9
        else:
            total += int((group / "cpu.stat").read_text().split()[1]) / 1e6  # Its first line is usage_usec.
    return total
