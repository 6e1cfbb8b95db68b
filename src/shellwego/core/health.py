"""How do we know that an instance can serve?"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class CheckKind(StrEnum):
    HTTP = "http"  # GET path answers 200-399
    TCP = "tcp"  # the port accepts a connection
    COMMAND = "command"  # a command inside the instance exits 0
    NONE = "none"  # running is healthy: process types that listen on nothing


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """
    A check, its rhythm and its patience. All times are seconds.

    Until it first succeeds, failures within `start_period_seconds` don't count; past that, and at any time after
    the first success, `retries` failures in a row make the instance unhealthy. An instance that isn't healthy at
    the end of its start period, plus its retries, is restarted.
    """

    kind: CheckKind = CheckKind.TCP
    path: str = "/"
    command: tuple[str, ...] = ()
    interval_seconds: float = 5.0
    timeout_seconds: float = 3.0
    start_period_seconds: float = 60.0
    retries: int = 3
