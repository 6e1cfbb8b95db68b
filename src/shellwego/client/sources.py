"""How does a folder become a source that the cloud can build?

It is listed first (so that a socket, an unreadable file or a folder of gigabytes is known before a byte is sent), then
packed into a gzipped tar while it is sent. The same folder gives the same bytes: entries are sorted, owners dropped,
modes reduced to "executable or not". Times are kept, to the second, because web servers make Last-Modified and ETags
of them. Symlinks stay symlinks and are never followed.
"""

from __future__ import annotations

import asyncio
import os
import stat
import tarfile
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from shellwego.client.apps import app_path
from shellwego.client.ignores import NEVER, ignore_of
from shellwego.client.transport import Transport
from shellwego.core.errors import InvalidField
from shellwego.protocol.public import Source

BIG_FILE_BYTES = 50 << 20
MAXIMUM_ENTRIES = 200_000
_READ_BYTES = 1 << 18
_SEND_BYTES = 1 << 18


@dataclass(frozen=True, slots=True)
class Entry:
    path: str
    """Relative to the folder, with slashes."""
    kind: bytes
    """`tarfile.REGTYPE`, `DIRTYPE` or `SYMTYPE`."""
    mode: int
    modified: int
    size: int = 0
    target: str = ""


@dataclass(frozen=True, slots=True)
class Listing:
    """What would be sent of a folder. `hints` are for people: what looks unmeant."""

    folder: Path
    entries: tuple[Entry, ...]
    rules: str
    """The file that says what stays at home; empty for our defaults."""
    hints: tuple[str, ...]

    @property
    def size_bytes(self) -> int:
        return sum(entry.size for entry in self.entries)

    @property
    def files(self) -> int:
        return sum(entry.kind != tarfile.DIRTYPE for entry in self.entries)


class Sources:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def upload(
        self,
        app: str,
        listing: Listing,
        *,
        idempotency_key: str,
        on_progress: Callable[[int], None] = lambda packed_bytes: None,
    ) -> Source:
        """Pack and send. `on_progress` gets how many of `listing.size_bytes` are packed; it falls back on a retry."""
        return await self._transport.upload(
            f"{app_path(app)}/sources",
            lambda: _in_thread(pack(listing, on_progress)),
            Source,
            content_type="application/gzip",
            idempotency_key=idempotency_key,
        )


def list_source(folder: Path, *, dockerfile: str | None = None) -> Listing:
    """
    What of the folder would be sent.

    Raises InvalidField for what isn't a folder, holds nothing, can't be read, or holds what can't be packed.
    """
    if not folder.is_dir():
        what = "is a file. Give the folder it is in" if folder.exists() else "doesn't exist"
        raise InvalidField("folder", f"{folder} {what}.")
    if dockerfile is not None and not (folder / dockerfile).is_file():
        raise InvalidField("build.dockerfile", f"there is no {dockerfile} in {folder}.")
    ignore, rules = ignore_of(folder, dockerfile)
    # Docker sends these even if they are ignored, since the build is steered by them.
    kept = {dockerfile or "Dockerfile", ".dockerignore", "shellwego.toml", "Procfile"}
    entries: list[Entry] = []

    def walk(inside: str) -> None:
        ignore.enter(inside)
        for found in _scan(folder, inside):
            path = f"{inside}/{found.name}" if inside else found.name
            if found.name in NEVER:
                continue
            is_folder = found.is_dir(follow_symlinks=False)
            if path not in kept and ignore.excludes(path, is_folder=is_folder):
                holds_kept = any(name.startswith(f"{path}/") for name in kept)
                if not (is_folder and (holds_kept or ignore.may_hold_kept(path))):
                    continue
            entries.append(_entry(found, path))
            if len(entries) > MAXIMUM_ENTRIES:
                raise InvalidField(
                    "folder", f"{folder} holds over {MAXIMUM_ENTRIES} files. Name what isn't needed in .dockerignore."
                )
            if is_folder:
                walk(path)

    walk("")
    if not any(entry.kind != tarfile.DIRTYPE for entry in entries):
        raise InvalidField("folder", f"{folder} holds no file to deploy{f' by its {rules}' if rules else ''}.")
    return Listing(folder, tuple(entries), rules, tuple(_hints(entries)))


def pack(listing: Listing, on_progress: Callable[[int], None] = lambda packed_bytes: None) -> Iterator[bytes]:
    """The gzipped tar, piece by piece. Raises InvalidField when a file changes or goes away meanwhile."""
    squeeze = zlib.compressobj(6, zlib.DEFLATED, 31)  # 31: with a gzip header, whose time is zero
    pieces: list[bytes] = []
    pending = done = 0
    for piece, packed in _tar(listing):
        done += packed
        small = squeeze.compress(piece)
        if small:
            pieces.append(small)
            pending += len(small)
        if packed:
            on_progress(done)
        if pending >= _SEND_BYTES:
            yield b"".join(pieces)
            pieces, pending = [], 0
    pieces.append(squeeze.flush())
    yield b"".join(pieces)


def _tar(listing: Listing) -> Iterator[tuple[bytes, int]]:
    """Pieces of the tar, each with how many bytes of files it holds."""
    total = 0
    for entry in listing.entries:
        header = tarfile.TarInfo(entry.path)
        header.type, header.mode, header.mtime = entry.kind, entry.mode, entry.modified
        header.size, header.linkname = entry.size, entry.target
        block = header.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        total += len(block) + entry.size
        yield block, 0
        if entry.kind == tarfile.REGTYPE:
            yield from ((piece, len(piece)) for piece in _content(listing.folder / entry.path, entry))
            padding = -entry.size % tarfile.BLOCKSIZE
            total += padding
            yield bytes(padding), 0
    yield bytes(2 * tarfile.BLOCKSIZE + -(total + 2 * tarfile.BLOCKSIZE) % tarfile.RECORDSIZE), 0


def _content(file: Path, entry: Entry) -> Iterator[bytes]:
    """Exactly as many bytes as the header promises."""
    left = entry.size
    try:
        # O_NOFOLLOW: what was a file when it was listed may be a symlink out of the folder now.
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb", buffering=0) as opened:
            while left and (piece := opened.read(min(left, _READ_BYTES))):
                left -= len(piece)
                yield piece
    except OSError as error:
        raise InvalidField(entry.path, f"can't be read: {error.strerror}.") from error
    if left:
        raise InvalidField(entry.path, "became shorter while it was sent. Deploy again when nothing writes to it.")


async def _in_thread(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Reading and squeezing, away from the event loop, one piece ahead of nobody: memory stays bounded."""
    while True:
        piece = await asyncio.to_thread(next, pieces, None)
        if piece is None:
            return
        yield piece


def _scan(folder: Path, inside: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder / inside) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise InvalidField(inside or str(folder), f"can't be listed: {error.strerror}.") from error


def _entry(found: os.DirEntry[str], path: str) -> Entry:
    status = found.stat(follow_symlinks=False)
    modified = int(status.st_mtime)
    if stat.S_ISLNK(status.st_mode):
        return Entry(path, tarfile.SYMTYPE, 0o777, modified, target=os.readlink(found.path))  # noqa: PTH115
    if stat.S_ISDIR(status.st_mode):
        return Entry(path, tarfile.DIRTYPE, 0o755, modified)
    if not stat.S_ISREG(status.st_mode):
        kind = "a socket" if stat.S_ISSOCK(status.st_mode) else "a pipe or device"
        raise InvalidField(path, f"is {kind}, which can't be deployed. Remove it or name it in .dockerignore.")
    if not os.access(found.path, os.R_OK):
        raise InvalidField(path, "can't be read by you. Mend its mode or name it in .dockerignore.")
    return Entry(path, tarfile.REGTYPE, 0o755 if status.st_mode & 0o111 else 0o644, modified, status.st_size)


def _hints(entries: list[Entry]) -> Iterator[str]:
    for entry in entries:
        if entry.size >= BIG_FILE_BYTES:
            yield f"{entry.path} is {entry.size >> 20} MiB. If the build doesn't need it, name it in .dockerignore."
        elif entry.path == ".env" or entry.path.endswith("/.env"):
            yield (
                f"{entry.path} is sent with the source and may end in the image. If it holds secrets, name it in "
                f".dockerignore and use `shellwego config import`."
            )
