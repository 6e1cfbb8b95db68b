"""What is one line of a CRI log file, as the watcher of a sandbox writes it, and where do the last ones begin?"""

from __future__ import annotations

import datetime as dt
import functools
import os
from dataclasses import dataclass
from typing import BinaryIO, Literal

Stream = Literal["stdout", "stderr"]

LINE_BYTES = 256 * 1024
"""Of one line of an app this much is passed on; what follows is counted and dropped."""
_BLOCK_BYTES = 256 * 1024


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


def offset_of_tail(file: BinaryIO, lines: int) -> tuple[int, int]:
    """
    Where the last `lines` whole lines begin; with fewer in the file, 0 and how many are missing. What has no end yet is
    half of a write, and no line.
    """
    end = file.seek(0, os.SEEK_END)
    if lines <= 0:
        return end, 0
    position, rest, is_ended = end, b"", False
    while position > 0:
        step = min(_BLOCK_BYTES, position)
        position -= step
        file.seek(position)
        block = file.read(step) + rest
        # The first piece may begin in the block before; it is counted when that has been read.
        pieces = block.split(b"\n")
        rest = pieces[0] if position > 0 else b""
        offset = position + len(block)
        for index in range(len(pieces) - 1, 0 if position > 0 else -1, -1):
            offset -= len(pieces[index])
            is_ended = is_ended or index < len(pieces) - 1
            if is_ended and pieces[index] and not parse_entry(pieces[index]).partial:
                if lines == 0:
                    return offset + len(pieces[index]) + 1, 0
                lines -= 1
            offset -= 1
        if len(rest) > LINE_BYTES:
            return position, 0
    return 0, lines


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
