"""How is a thing measured so that somebody else would find the same?

Sides take turns (A B A B ...), so what the machine does meanwhile meets both; medians and ratios are told, never the
best. Times are seconds, memory is what would come free if the process ended (PSS: shared pages by their share).
"""

from __future__ import annotations

import asyncio
import http.client
import os
import re
import statistics
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

Side = Callable[[], Awaitable[float]]

_EAGER_SECONDS, _CALM_SECONDS = 0.001, 0.02
_TICKS = os.sysconf("SC_CLK_TCK")
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}


async def alternate(
    times: int, sides: Mapping[str, Side], *, warm_up: bool = True, rest_seconds: float = 0.0
) -> dict[str, list[float]]:
    """
    What each side measured, in turns. The first turn only warms caches and is thrown away. After each measurement
    comes a rest, for what a side still does when it has answered must not burden the next.
    """
    seen: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(times + warm_up):
        for name, side in sides.items():
            value = await side()
            if turn or not warm_up:
                seen[name].append(value)
            await asyncio.sleep(rest_seconds)
    return seen


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


async def until(fact: Callable[[], object], what: str, *, seconds: float = 60, every_seconds: float = 0.02) -> None:
    """Wait for a fact. Raises TimeoutError with its name."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if fact():
                return
        except (OSError, http.client.HTTPException):
            pass
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s for: {what}")
        await asyncio.sleep(every_seconds)


# --- processes ----------------------------------------------------------------------------------------------------


def memory_bytes(pids: Iterable[int]) -> int:
    """Proportional set size of processes together."""
    total = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        found = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
        total += int(found[1]) * 1024 if found else 0
    return total


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of processes together."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += sum(int(ticks) for ticks in fields[11:13])
    return total / _TICKS


def children(pid: int) -> list[int]:
    return [int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()]


# --- requests -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wrk:
    """What wrk saw."""

    requests: int
    requests_per_second: float
    p99_seconds: float
    failures: int


def wrk(
    url: str,
    *,
    seconds: int = 3,
    connections: int = 32,
    headers: Mapping[str, str] | None = None,
    script: Path | None = None,
    cpu: int | None = 1,
) -> Wrk:
    """Load from one thread, on a core of its own where the machine has two."""
    pin = ("taskset", "-c", str(cpu)) if cpu is not None and (os.cpu_count() or 1) > 1 else ()
    command = [*pin, "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "--timeout", "10s"]
    for name, value in (headers or {}).items():
        command += ["-H", f"{name}: {value}"]
    if script is not None:
        command += ["-s", str(script)]
    said = subprocess.run([*command, url], capture_output=True, text=True, check=True).stdout
    rate = re.search(r"Requests/sec:\s+([\d.]+)", said)
    p99 = re.search(r"99%\s+([\d.]+)(us|ms|s|m)", said)
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
    broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", said)
    count = re.search(r"(\d+) requests in", said)
    if rate is None or p99 is None or count is None:
        raise RuntimeError(f"wrk said: {said}")
    failures = int(failed[1]) if failed else 0
    failures += sum(map(int, broken.groups())) if broken else 0
    return Wrk(int(count[1]), float(rate[1]), float(p99[1]) * _UNITS[p99[2]], failures)


async def first_200(port: int, host: str, path: str = "/", *, seconds: float = 60, body: str = "") -> float:
    """
    The moment (time.perf_counter) at which the host first answered 200, and with `body` if that is given. While the
    app answers something else it is asked rarely: each answer takes CPU from what is waited for.
    """
    deadline = time.perf_counter() + seconds
    request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
    while time.perf_counter() < deadline:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(request)
                answer = await asyncio.wait_for(reader.read(), 10)
            finally:
                writer.close()
            if answer.startswith(b"HTTP/1.1 200") and body.encode() in answer:
                return time.perf_counter()
            wait = _CALM_SECONDS if answer.startswith(b"HTTP/1.1 200") else _EAGER_SECONDS
        except OSError:
            wait = _EAGER_SECONDS
        await asyncio.sleep(wait)
    raise TimeoutError(f"{host} did not answer 200 within {seconds:g} s")
