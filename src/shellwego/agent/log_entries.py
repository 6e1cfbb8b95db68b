"""What is one line of a CRI log file, the format in which whoever watches a sandbox writes down what it says?"""

from __future__ import annotations

import datetime as dt
import functools
from dataclasses import dataclass
from typing import Literal

Stream = Literal["stdout", "stderr"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a CRI log file, its text still bytes."""

    at: float
    stream: Stream
    partial: bool
    text: bytes


def parse_entry(line: bytes, *, fallback_at: float = 0.0) -> Entry:
    """`2026-01-01T00:00:00.123456789Z stdout F text`; what isn't one (half a write, say) is a line of stdout."""
    parts = line.split(b" ", 3)
    if len(parts) == 4 and parts[1] in {b"stdout", b"stderr"} and parts[2][:1] in {b"F", b"P"}:
        at = _seconds(parts[0])
        if at is not None:
            return Entry(at, "stdout" if parts[1] == b"stdout" else "stderr", parts[2][:1] == b"P", parts[3])
    return Entry(fallback_at, "stdout", False, line)


@functools.lru_cache(maxsize=4096)
def _whole_seconds(text: bytes, zone: bytes) -> float | None:
    try:
        moment = dt.datetime.fromisoformat((text + (b"+00:00" if zone in {b"", b"Z"} else zone)).decode("ascii"))
        return moment.timestamp()
    except ValueError:
        return None


def _seconds(stamp: bytes) -> float | None:
    head, point, tail = stamp[:19], stamp[19:20], stamp[20:]
    if point != b".":
        return _whole_seconds(head, stamp[19:])
    digits = 0
    while digits < len(tail) and 48 <= tail[digits] <= 57:
        digits += 1
    whole = _whole_seconds(head, tail[digits:])
    return None if whole is None else whole + (int(tail[:digits]) / 10**digits if digits else 0.0)
