"""How many requests does each app get, and how long do they take?

HAProxy sends a line per request to a datagram socket of ours; when there are many, one in some, which counts for all
of them. Nobody waits for us: lines that we don't read in time are dropped by the kernel, and that is fine.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from shellwego.edge.config import LOG_ALL_BELOW, LOG_FEW_ABOVE, LOG_FEW_OF, LOG_ONE_OF

_BATCH = 512
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60)


@dataclass(frozen=True, slots=True)
class LogLine:
    """One request. `app` is empty if no app answered; `weight` says for how many requests the line stands."""

    app: str
    backend: str
    status: int
    size_bytes: int
    seconds: float
    weight: int


def parse_line(line: bytes) -> LogLine | None:
    """None for what isn't about a request: HAProxy's own words go the same way."""
    words = line.decode(errors="replace").split()
    if len(words) != 7 or not all(_is_number(word) for word in (words[2], words[3], words[4], words[6])):
        return None
    app, backend, status, size, milliseconds, _, rate = words
    return LogLine(
        app="" if app == "-" else app,
        backend=backend,
        status=int(status),
        size_bytes=int(size),
        seconds=max(0, int(milliseconds)) / 1000,
        weight=_weight(int(rate)),
    )


def _weight(requests_per_second: int) -> int:
    if requests_per_second > LOG_FEW_ABOVE:
        return LOG_FEW_OF
    return LOG_ONE_OF if requests_per_second > LOG_ALL_BELOW else 1


@dataclass(slots=True)
class _Tally:
    requests: Counter[str] = field(default_factory=Counter)
    sent_bytes: int = 0
    seconds: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(_SECONDS) + 1))


class AccessLog(Collector):
    """Reads the socket and counts. `metrics` is what Prometheus reads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tallies: dict[tuple[str, str], _Tally] = {}
        self._registry = CollectorRegistry()
        self._registry.register(self)

    async def read(self) -> None:
        """For ever. HAProxy may send from another network namespace and as another user: a path reaches both."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as receiver:
            self._path.unlink(missing_ok=True)
            receiver.bind(str(self._path))
            self._path.chmod(0o666)
            loop = asyncio.get_running_loop()
            loop.add_reader(receiver, self._drain, receiver)
            try:
                await asyncio.Event().wait()
            finally:
                loop.remove_reader(receiver)

    def count(self, line: LogLine) -> None:
        """The client library's own counters take one observation at a time; a line may stand for many."""
        key = (line.app, "app" if line.app else line.backend)
        tally = self._tallies.get(key)
        if tally is None:
            tally = self._tallies[key] = _Tally()
        tally.requests[f"{line.status // 100}xx"] += line.weight
        tally.sent_bytes += line.size_bytes * line.weight
        tally.seconds += line.seconds * line.weight
        tally.buckets[bisect_left(_SECONDS, line.seconds)] += line.weight

    def collect(self) -> Iterator[Metric]:
        """What the registry asks for."""
        labels = ("app", "backend")
        requests = CounterMetricFamily(
            "shellwego_edge_requests", "Requests, by class of status.", labels=(*labels, "status")
        )
        sent = CounterMetricFamily("shellwego_edge_sent_bytes", "Bytes sent to clients.", labels=labels)
        seconds = HistogramMetricFamily(
            "shellwego_edge_request_seconds", "Time from a request's first byte to its answer's last.", labels=labels
        )
        for key, tally in self._tallies.items():
            for status, count in tally.requests.items():
                requests.add_metric((*key, status), count)
            sent.add_metric(key, tally.sent_bytes)
            counts = zip((*(str(float(limit)) for limit in _SECONDS), "+Inf"), accumulate(tally.buckets), strict=True)
            seconds.add_metric(key, [(limit, count) for limit, count in counts], tally.seconds)
        yield from (requests, sent, seconds)

    def metrics(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)

    def _drain(self, receiver: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            for _ in range(_BATCH):
                line = parse_line(receiver.recv(2048))
                if line is not None:
                    self.count(line)


async def serve_metrics(log: AccessLog, path: Path) -> None:
    """Answer every HTTP request on a Unix socket with the metrics, for ever."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(5):
                await reader.readuntil(b"\r\n\r\n")
                body = log.metrics()
                head = (
                    "HTTP/1.1 200 OK\r\ncontent-type: text/plain; version=0.0.4; charset=utf-8\r\n"
                    f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
                )
                writer.write(head.encode() + body)
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # Whoever asks again gets an answer again.
        finally:
            writer.close()

    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    async with await asyncio.start_unix_server(answer, path) as server:
        path.chmod(0o600)
        await server.serve_forever()


def _is_number(word: str) -> bool:
    return word.removeprefix("-").isdigit()
