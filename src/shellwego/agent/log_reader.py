"""What did these instances say, and what are they saying now?

Reads the files of `logs.py` from any point, several instances merged by time, and goes on where they grow. The reader
sets the pace: nothing is read before the last lines were taken, so a slow one costs memory for one batch only. What an
app writes is hostile: any bytes, lines of any length, no line end at all. Its secrets stay in the files: every reader
gets its lines from a `Cursor`, which leaves them out.
"""

from __future__ import annotations

import asyncio
import codecs
import heapq
import os
import re
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import msgspec

from shellwego.agent.log_entries import LINE_BYTES, Stream, offset_of_tail, parse_entry
from shellwego.agent.logs import CURRENT, LogStore, rotated_files
from shellwego.core.ids import InstanceId
from shellwego.core.redaction import Redaction
from shellwego.protocol.messages import LogLine, LogsRequest

BATCH_BYTES = 256 * 1024
BATCH_LINES = 500
LONGEST_TAIL = 10_000
TAIL_CHARACTERS = 8 << 20
FOLLOW_SECONDS = 0.25


@dataclass(slots=True)
class _Said:
    """How far the line under way of one stream is: a character may be cut by the writer's buffer."""

    decoder: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")(errors="replace")
    )
    bytes_passed: int = 0
    bytes_cut: int = 0
    held: str = ""
    """The end of what was read, in which a secret may have begun."""


class Cursor:
    """A place in the log of one instance, across its files. Blocking: call it in a thread."""

    def __init__(
        self,
        store: LogStore,
        id: str,
        *,
        since: float | None = None,
        after: str | None = None,
        redact: Redaction | None = None,
    ) -> None:
        self._store, self._id, self._since = store, id, since if after is None else None
        self._redact = redact or Redaction()
        self._directory: Path | None = None
        self._file: BinaryIO | None = None
        self._name = ""
        self._offset = 0
        self._rest = b""
        self._at = 0.0
        self._budget: int | None = None
        self._said: dict[Stream, _Said] = {"stdout": _Said(), "stderr": _Said()}
        if after is not None:
            self._seek(after)

    def _seek(self, place: str) -> None:
        """Stand behind a line; before the oldest that is left, if its file was deleted to make room."""
        name, _, offset = place.partition(".")
        for path in self._paths():
            if self._open(path) and name and self._name_of_open() == name:
                assert self._file is not None
                self._offset = self._file.seek(int(offset))
                return
        self.close()

    def seek_tail(self, lines: int) -> None:
        """Stand before the last so many whole lines."""
        for path in reversed(self._paths()):
            # Opened once: by the next moment another file may have its name.
            if not self._open(path):
                continue
            assert self._file is not None
            offset, lines = offset_of_tail(self._file, lines)
            if lines <= 0:
                self._offset = self._file.seek(offset)
                return
        self.close()

    def stop_at_present(self) -> None:
        """Read no further than what is there now: an app that writes faster than we read has no last line."""
        ahead = self._paths() if self._file is None else self._later()
        self._budget = sum(status.st_size for path in ahead if (status := _status(path)))
        if self._file is not None:
            self._budget += os.fstat(self._file.fileno()).st_size - self._file.tell()

    def go_on(self) -> None:
        """Read on past that."""
        self._budget = None

    def read(self) -> list[LogLine]:
        """The next lines, none when there are no more for now."""
        while True:
            chunk = self._next_chunk()
            if not chunk:
                return []
            lines = [line for raw in self._split(chunk) if (line := self._line(raw)) is not None]
            if lines:
                return lines

    def read_unfinished(self) -> list[LogLine]:
        """What is there of lines without an end, for a reader who goes no further."""
        lines = []
        for stream, said in self._said.items():
            text, said.held = self._whole(said.held, said.bytes_cut), ""
            if text:
                lines.append(LogLine(instance=self._id, at=self._at, stream=stream, text=text, partial=True))
        return lines

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _next_chunk(self) -> bytes:
        if self._budget is not None and self._budget <= 0:
            return b""
        chunk = self._read_on()
        if self._budget is not None:
            self._budget -= len(chunk)
        return chunk

    def _read_on(self) -> bytes:
        if self._file is None and not self._open_next():
            return b""
        while True:
            assert self._file is not None
            most = BATCH_BYTES if self._budget is None else min(BATCH_BYTES, self._budget)
            chunk = self._file.read(most)
            if chunk:
                return chunk
            if self._successor() is None:
                return b""
            # Its writer has moved on; what it wrote between our read and that is the last of this file.
            chunk = self._file.read(most)
            if chunk:
                return chunk
            rest, self._rest = self._rest, b""
            if rest:
                return rest + b"\n"
            if not self._open_next():
                return b""

    def _split(self, chunk: bytes) -> Iterator[bytes]:
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            self._offset += len(line) + 1
            yield line
        if len(self._rest) > LINE_BYTES:  # Not the CRI format any more; don't gather for ever.
            rest, self._rest = self._rest, b""
            self._offset += len(rest)
            yield rest

    def _line(self, raw: bytes) -> LogLine | None:
        if not raw:
            return None
        entry = parse_entry(raw, fallback_at=self._at)
        self._at = entry.at
        said = self._said[entry.stream]
        room = LINE_BYTES - said.bytes_passed
        piece = entry.text[:room]
        said.bytes_passed += len(piece)
        said.bytes_cut += len(entry.text) - len(piece)
        text = said.held + said.decoder.decode(piece, final=not entry.partial)
        if not entry.partial:
            text = self._whole(text, said.bytes_cut)
            said.decoder.reset()
            said.bytes_passed = said.bytes_cut = 0
            said.held = ""
        else:
            text, said.held = self._redact.split(text)
            if not text:
                return None
        if self._since is not None and entry.at < self._since:
            return None
        return LogLine(
            instance=self._id,
            at=entry.at,
            stream=entry.stream,
            text=text,
            partial=entry.partial,
            place=f"{self._name_of_open()}.{self._offset}",
        )

    def _name_of_open(self) -> str:
        """A file is known by the time of its first line, to the nanosecond: names change, and inodes come again."""
        if not self._name and self._file is not None:
            stamp = os.pread(self._file.fileno(), 40, 0).partition(b" ")[0]
            self._name = re.sub(rb"[^0-9]", b"", stamp).decode("ascii")
        return self._name

    def _whole(self, text: str, bytes_cut: int) -> str:
        if not bytes_cut:
            return self._redact(text)
        text, rest = self._redact.split(text)  # The rest may be half a secret.
        return f"{text} [{bytes_cut + len(rest.encode())} bytes of this line were cut]"

    def _paths(self) -> list[Path]:
        if self._directory is None:
            self._directory = self._store.find_directory(self._id)
            if self._directory is None:
                return []
        return [*(path for _, path in rotated_files(self._directory)), self._directory / CURRENT]

    def _open_next(self) -> bool:
        successor = self._first() if self._file is None else self._successor()
        return successor is not None and self._open(successor)

    def _open(self, path: Path) -> bool:
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return False
        if self._file is not None:
            self._file.close()
        self._file, self._name, self._offset = file, "", 0
        return True

    def _first(self) -> Path | None:
        for path in self._paths():
            try:
                # Whole files from before `since` needn't be read.
                if self._since is None or path.stat().st_mtime >= self._since:
                    return path
            except FileNotFoundError:
                continue
        return None

    def _successor(self) -> Path | None:
        """The file after the open one, None while it is the newest or its writer hasn't opened the next."""
        return next((path for path in self._later() if path.exists()), None)

    def _later(self) -> list[Path]:
        """The files after the open one."""
        assert self._file is not None
        mine = os.fstat(self._file.fileno())
        paths = self._paths()
        inodes = [status.st_ino if (status := _status(path)) else None for path in paths]
        if mine.st_nlink and mine.st_ino in inodes:
            return paths[inodes.index(mine.st_ino) + 1 :]
        return paths  # Ours was deleted to make room: go on with the oldest that is left.


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


async def read_logs(store: LogStore, request: LogsRequest) -> AsyncGenerator[Sequence[LogLine], None]:
    """Lines in batches, oldest first, as many as the request asks for; with `follow` without an end."""
    cursors = await asyncio.to_thread(_cursors, store, request)
    try:
        if request.tail is None:
            history = _merged(cursors)
            while batch := await asyncio.to_thread(_take, history, BATCH_LINES):
                yield batch
        elif request.tail > 0:
            for batch in _batches(await asyncio.to_thread(_tail, cursors, min(request.tail, LONGEST_TAIL))):
                yield batch
        else:
            await asyncio.to_thread(_skip, cursors)
        for cursor in cursors:
            cursor.go_on()
        while request.follow:
            batch = await asyncio.to_thread(_news, cursors)
            if batch:
                yield batch
            else:
                await asyncio.sleep(FOLLOW_SECONDS)
    finally:
        for cursor in cursors:
            cursor.close()


def _cursors(store: LogStore, request: LogsRequest) -> list[Cursor]:
    return [
        Cursor(
            store,
            id,
            since=request.since,
            after=request.after.get(id),
            redact=Redaction.of_config(request.secrets.get(id, {})),
        )
        for id in dict.fromkeys(request.instances)
    ]


def last_lines(store: LogStore, id: InstanceId, count: int, redact: Redaction) -> list[LogLine]:
    """The last whole lines of one instance: why it ended, mostly. Blocking, and quick."""
    with closing(Cursor(store, id, redact=redact)) as cursor:
        return _joined([*_tail([cursor], count), *cursor.read_unfinished()])


def _joined(pieces: Sequence[LogLine]) -> list[LogLine]:
    """Whole lines. Python writes a traceback word by word, and each write that ends no line is a piece in the log."""
    lines: list[LogLine] = []
    begun: dict[Stream, int] = {}
    for piece in pieces:
        at = begun.pop(piece.stream, None)
        if at is None:
            at = len(lines)
            lines.append(piece)
        else:
            lines[at] = msgspec.structs.replace(lines[at], text=lines[at].text + piece.text, partial=piece.partial)
        if piece.partial:
            begun[piece.stream] = at
    return lines


def _merged(cursors: Sequence[Cursor]) -> Iterator[LogLine]:
    """All that is there now, by time. Within an instance the order is that of the file, even if its clock jumped."""

    def keyed(cursor: Cursor, index: int) -> Iterator[tuple[float, int, LogLine]]:
        latest = 0.0
        while lines := cursor.read():
            for line in lines:
                latest = max(latest, line.at)
                yield latest, index, line

    for cursor in cursors:
        cursor.stop_at_present()
    streams = (keyed(cursor, index) for index, cursor in enumerate(cursors))
    return (line for _, _, line in heapq.merge(*streams, key=lambda item: item[:2]))


def _news(cursors: Sequence[Cursor]) -> list[LogLine]:
    """What came since, one read of each: a flooding instance must not keep the others' lines back."""
    lines = [line for cursor in cursors for line in cursor.read()]
    return sorted(lines, key=lambda line: line.at) if len(cursors) > 1 else lines


def _tail(cursors: Sequence[Cursor], count: int) -> list[LogLine]:
    for cursor in cursors:
        cursor.seek_tail(count)
    kept: deque[LogLine] = deque()
    whole = size = 0
    for line in _merged(cursors):
        kept.append(line)
        whole += not line.partial
        size += len(line.text)
        while whole > count or size > TAIL_CHARACTERS:
            dropped = kept.popleft()
            whole -= not dropped.partial
            size -= len(dropped.text)
    return list(kept)


def _skip(cursors: Sequence[Cursor]) -> None:
    for cursor in cursors:
        cursor.seek_tail(0)


def _take(lines: Iterator[LogLine], count: int) -> list[LogLine]:
    taken, size = [], 0
    for line in lines:
        taken.append(line)
        size += len(line.text)
        if len(taken) >= count or size >= BATCH_BYTES:
            break
    return taken


def _batches(lines: list[LogLine]) -> Iterator[list[LogLine]]:
    for start in range(0, len(lines), BATCH_LINES):
        yield lines[start : start + BATCH_LINES]
