"""Does anybody notice? A constant load on one HTTP address, and every answer that wasn't as it should be.

Half the clients keep their connection, half make a new one for each request, as people's browsers and other people's
servers do. Used by the demo and by end-to-end tests; bounded by the caller, who stops it.
"""

from __future__ import annotations

import http.client
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event, Thread


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go: an address, and the headers that name the app."""

    address: str
    port: int
    path: str = "/"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Load:
    """What the clients saw. `bodies` are the distinct answers, in order of first sight; times are seconds."""

    sent: int = 0
    failures: list[str] = field(default_factory=list)
    bodies: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    stop: Event = field(default_factory=Event)

    @property
    def p99_seconds(self) -> float:
        return statistics.quantiles(self.seconds, n=100)[98] if len(self.seconds) > 1 else 0.0


@contextmanager
def constant_load(target: Target, *, clients: int = 4, pause_seconds: float = 0.005) -> Iterator[Load]:
    """Requests without end while the block runs."""
    load = Load()
    threads = [
        Thread(target=_send, args=(target, load, number % 2 == 0, pause_seconds), daemon=True)
        for number in range(clients)
    ]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        load.stop.set()
        for thread in threads:
            thread.join(timeout=60)


def _send(target: Target, load: Load, keep_alive: bool, pause_seconds: float) -> None:
    connection = http.client.HTTPConnection(target.address, target.port, timeout=30)
    fresh = True
    while not load.stop.is_set():
        began = time.monotonic()
        try:
            connection.request("GET", target.path, headers=dict(target.headers))
            answer = connection.getresponse()
            body = answer.read().decode(errors="replace")
            load.sent += 1
            load.seconds.append(time.monotonic() - began)
            if answer.status != 200:
                load.failures.append(f"{answer.status}: {body[:200]}")
            elif body not in load.bodies:
                load.bodies.append(body)
            fresh = answer.will_close
        except (OSError, http.client.HTTPException) as error:
            # A client must expect that an idle connection was closed, and sends a GET once more then (RFC 9112, 9.3.1).
            if fresh or not isinstance(error, http.client.RemoteDisconnected | ConnectionResetError | BrokenPipeError):
                load.sent += 1
                load.failures.append(repr(error))
            fresh = True
        if not keep_alive or fresh:
            connection.close()
            fresh = True
        load.stop.wait(pause_seconds)
    connection.close()
