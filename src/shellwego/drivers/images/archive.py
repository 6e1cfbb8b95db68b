"""Which entries does a tar archive have?

A reader of our own, since a stranger's archive must not decide how much memory its headers take (tarfile reads a
pax header of any size into memory), and since only a front-to-back reader is wanted: ustar, pax and GNU formats with
long names and sparse files. It looks at headers only; what an entry may do is decided in extract.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum

from shellwego.drivers.images.limits import ImageLimits
from shellwego.drivers.images.streams import LayerStream, Refused

_BLOCK = 512
_ZEROS = bytes(_BLOCK)
_LONGEST_HEADER = 1024 * 1024
"""Of one pax or long-name header. Extended attributes live there too (64 KiB each at most, in the kernel)."""
_MOST_SPARSE_PIECES = 100_000
_MOST_HEADERS_IN_A_ROW = 8
_LARGEST = 1 << 62


class Kind(Enum):
    FILE = "file"
    HARD_LINK = "hard link"
    SYMLINK = "symbolic link"
    CHARACTER_DEVICE = "character device"
    BLOCK_DEVICE = "block device"
    DIRECTORY = "directory"
    FIFO = "fifo"
    OTHER = "entry of an unknown type"


_KINDS = {
    b"\0": Kind.FILE,
    b"0": Kind.FILE,
    b"7": Kind.FILE,  # "contiguous", which no system of today knows apart
    b"S": Kind.FILE,  # GNU sparse, old format
    b"1": Kind.HARD_LINK,
    b"2": Kind.SYMLINK,
    b"3": Kind.CHARACTER_DEVICE,
    b"4": Kind.BLOCK_DEVICE,
    b"5": Kind.DIRECTORY,
    b"6": Kind.FIFO,
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry as its headers describe it. `name` and `link` are bytes, as in the file system."""

    name: bytes
    kind: Kind
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int
    """Of the file as an app sees it."""
    stored: int
    """Bytes of it in the archive; less than `size` for a sparse file."""
    link: bytes
    pieces: tuple[tuple[int, int], ...] | None = None
    """Offset and length of what a sparse file stores, in order; None for an ordinary file."""


class Archive:
    """Iterate over the entries; between two, read the entry's data from `data`, all or part of it."""

    def __init__(self, stream: LayerStream, limits: ImageLimits) -> None:
        self._stream = stream
        self._limits = limits
        self._left = 0
        self._padding = 0

    def data(self, most: int) -> memoryview:
        """Some bytes of the current entry, at least one; empty when all have been read."""
        if not self._left:
            return memoryview(b"")
        piece = self._stream.read_some(min(most, self._left))
        if not piece:
            raise Refused("a layer's archive ends in the middle of a file.")
        self._left -= len(piece)
        return piece

    def __iter__(self) -> Iterator[Entry]:
        while (entry := self._next_entry()) is not None:
            yield entry
            self._end_entry()

    def _start_data(self, stored: int) -> None:
        self._left = stored
        self._padding = -stored % _BLOCK

    def _end_entry(self) -> None:
        self._stream.skip(self._left + self._padding)
        self._left = self._padding = 0

    def _next_entry(self) -> Entry | None:
        pax: dict[bytes, bytes] = {}
        sparse_pairs: list[bytes] = []
        long_name: bytes | None = None
        long_link: bytes | None = None
        for _ in range(_MOST_HEADERS_IN_A_ROW):
            block = self._next_block()
            if block is None:
                if pax or long_name is not None or long_link is not None:
                    raise Refused("a layer's archive ends after a header that announces an entry.")
                return None
            kind, size = block[156:157], _number(block[124:136])
            if size < 0 or size > _LARGEST:
                raise Refused("a layer's archive has an entry of impossible size.")
            match kind:
                case b"x":
                    pax = {}
                    sparse_pairs = []
                    for key, value in _pax_records(self._extended(size)):
                        # Sparse format 0.0 repeats these keys, so a dictionary would lose the map.
                        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
                            sparse_pairs.append(value)
                        else:
                            pax[key] = value
                case b"g":
                    self._extended(size)  # Defaults for all entries: container tools write comments there, at most.
                case b"L":
                    long_name = self._extended(size).split(b"\0", 1)[0]
                case b"K":
                    long_link = self._extended(size).split(b"\0", 1)[0]
                case _:
                    return self._entry(block, kind, size, pax, sparse_pairs, long_name, long_link)
        raise Refused("a layer's archive has too many headers before one entry.")

    def _next_block(self) -> bytes | None:
        first = self._stream.read_some(_BLOCK)
        if not first:
            return None  # No end mark: tolerated by every tar, and the digests have the last word.
        block = bytes(first)
        if len(block) < _BLOCK:
            block += self._stream.read_exact(_BLOCK - len(block))
        if block == _ZEROS:
            return None
        total = sum(block) - sum(block[148:156]) + 8 * 32
        if _number(block[148:156]) != total:
            # Some ancient tars summed signed characters.
            signed = sum(byte - 256 if byte > 127 else byte for byte in block[:148] + block[156:]) + 8 * 32
            if _number(block[148:156]) != signed:
                raise Refused("a layer is no tar archive: a header's checksum is wrong.")
        return block

    def _extended(self, size: int) -> bytes:
        if size > _LONGEST_HEADER:
            raise Refused(f"a layer's archive has a header of {size} bytes; the limit is {_LONGEST_HEADER}.")
        content = self._stream.read_exact(size)
        self._stream.skip(-size % _BLOCK)
        return content

    def _entry(
        self,
        block: bytes,
        kind_byte: bytes,
        size: int,
        pax: dict[bytes, bytes],
        sparse_pairs: list[bytes],
        long_name: bytes | None,
        long_link: bytes | None,
    ) -> Entry:
        kind = _KINDS.get(kind_byte, Kind.OTHER)
        name = _text(block[0:100])
        if block[257:263] == b"ustar\0" and block[345]:
            name = _text(block[345:500]) + b"/" + name
        name = pax.get(b"path") or long_name or name
        link = pax.get(b"linkpath") or long_link or _text(block[157:257])
        if kind_byte == b"\0" and name.endswith(b"/"):
            kind = Kind.DIRECTORY  # Before POSIX, directories had no type of their own.
        if b"size" in pax:
            size = _decimal(pax[b"size"])
        if kind is not Kind.FILE and kind is not Kind.OTHER:
            size = 0  # Whatever the field says (Go and POSIX agree): nothing follows these headers.
        entry = Entry(
            name=name,
            kind=kind,
            mode=_number(block[100:108]) & 0o7777,
            uid=_decimal(pax[b"uid"]) if b"uid" in pax else _number(block[108:116]),
            gid=_decimal(pax[b"gid"]) if b"gid" in pax else _number(block[116:124]),
            mtime_ns=_nanoseconds(pax[b"mtime"]) if b"mtime" in pax else _number(block[136:148]) * 1_000_000_000,
            size=size,
            stored=size,
            link=link,
        )
        if kind_byte == b"S":
            return self._old_sparse(entry, block)
        self._start_data(size)
        if kind is Kind.FILE and (sparse_pairs or any(key.startswith(b"GNU.sparse.") for key in pax)):
            return self._pax_sparse(entry, pax, sparse_pairs)
        return entry

    def _old_sparse(self, entry: Entry, block: bytes) -> Entry:
        """GNU tar manual, "Old GNU Format": four pieces in the header, 21 in each block that follows."""
        real_size = _number(block[483:495])
        numbers = [_number(block[at : at + 12]) for at in range(386, 482, 12)]
        more = block[482]
        while more:
            if len(numbers) > 2 * _MOST_SPARSE_PIECES:
                raise Refused("a layer has a sparse file of too many pieces.")
            extension = self._stream.read_exact(_BLOCK)
            numbers += [_number(extension[at : at + 12]) for at in range(0, 504, 12)]
            more = extension[504]
        self._start_data(entry.stored)
        pieces = [pair for pair in zip(numbers[::2], numbers[1::2], strict=True) if pair != (0, 0)]
        return _checked_sparse(entry, real_size, pieces)

    def _pax_sparse(self, entry: Entry, pax: dict[bytes, bytes], pairs: list[bytes]) -> Entry:
        """GNU tar manual, "PAX Format, Versions 0.0, 0.1 and 1.0"."""
        entry = replace(entry, name=pax.get(b"GNU.sparse.name") or entry.name)
        if pax.get(b"GNU.sparse.major") == b"1":
            real_size = _decimal(pax.get(b"GNU.sparse.realsize", b""))
            numbers = self._sparse_map()
            entry = replace(entry, stored=self._left)
        else:
            real_size = _decimal(pax.get(b"GNU.sparse.size", b""))
            numbers = [_decimal(text) for text in (pairs or pax.get(b"GNU.sparse.map", b"").split(b",")) if text]
        if len(numbers) % 2 or len(numbers) > 2 * _MOST_SPARSE_PIECES:
            raise Refused("a layer has a sparse file with a broken map.")
        return _checked_sparse(entry, real_size, list(zip(numbers[::2], numbers[1::2], strict=True)))

    def _sparse_map(self) -> list[int]:
        """Version 1.0 keeps the map before the data: decimal lines, padded to whole blocks."""
        lines: list[bytes] = []
        rest = b""
        wanted: int | None = None
        while wanted is None or len(lines) < wanted:
            if self._left < _BLOCK:
                raise Refused("a layer has a sparse file with a broken map.")
            self._left -= _BLOCK
            *complete, rest = (rest + self._stream.read_exact(_BLOCK)).split(b"\n")
            lines += complete
            if wanted is None and lines:
                wanted = 1 + 2 * _decimal(lines[0])
                if wanted > 2 * _MOST_SPARSE_PIECES:
                    raise Refused("a layer has a sparse file of too many pieces.")
            if len(rest) > 20 and (wanted is None or len(lines) < wanted):
                raise Refused("a layer has a sparse file with a broken map.")
        return [_decimal(line) for line in lines[1:wanted]]


def _checked_sparse(entry: Entry, real_size: int, pieces: list[tuple[int, int]]) -> Entry:
    end = 0
    for offset, length in pieces:
        if offset < end or length < 0 or offset + length > real_size:
            raise Refused("a layer has a sparse file whose pieces overlap or leave it.")
        end = offset + length
    if real_size > _LARGEST or sum(length for _, length in pieces) != entry.stored:
        raise Refused("a layer has a sparse file whose sizes contradict each other.")
    return replace(entry, size=real_size, pieces=tuple(pieces))


def _text(field: bytes) -> bytes:
    return field.split(b"\0", 1)[0]


def _number(field: bytes) -> int:
    """Octal text, or GNU's base 256 when the first bit is set (negative when the second is, too)."""
    if field and field[0] & 0x80:
        value = int.from_bytes(field, "big", signed=False) & ~(0x80 << 8 * (len(field) - 1))
        return value - (1 << (8 * len(field) - 1)) if field[0] & 0x40 else value
    text = field.split(b"\0", 1)[0].strip(b" ") or field.strip(b" \0")
    if not text:
        return 0
    if not all(0x30 <= byte <= 0x37 for byte in text):
        raise Refused("a layer is no tar archive: a header has a number that is none.")
    return int(text, 8)


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > 19:
        raise Refused("a layer's archive has a number that is none in an extended header.")
    return int(text)


def _nanoseconds(text: bytes) -> int:
    """`-12.345` as pax writes times."""
    sign, digits = (-1, text[1:]) if text.startswith(b"-") else (1, text)
    whole, _, fraction = digits.partition(b".")
    nanoseconds = fraction[:9].ljust(9, b"0")
    if not nanoseconds.isdigit():
        raise Refused("a layer's archive has a time that is none.")
    return sign * (_decimal(whole) * 1_000_000_000 + int(nanoseconds))


def _pax_records(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at < len(content):
        space = content.find(b" ", at, at + 20)
        length = _decimal(content[at:space]) if space > 0 else 0
        record = content[space + 1 : at + length]
        key, equals, value = record[:-1].partition(b"=")
        if length <= space - at + 1 or at + length > len(content) or not record.endswith(b"\n") or not equals:
            raise Refused("a layer's archive has a broken extended header.")
        at += length
        yield key, value
