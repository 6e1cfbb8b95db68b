"""How do we read a layer once, and know afterwards whether it was what it claimed to be?

`LayerStream` reads the blob, hashes it, decompresses it, hashes what comes out and counts everything, in chunks that
bound memory whatever the input does. Errors are `Refused` (what the bytes say is wrong); whether the bytes are the
right ones is asked at the end, by `finish`.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from typing import BinaryIO, cast

import zstandard

from shellwego.drivers.images.limits import ImageLimits
from shellwego.drivers.images.manifest import Compression

_CHUNK = 1024 * 1024
_READ = 256 * 1024


class Refused(Exception):
    """A layer breaks a rule. The message completes "Image X was refused: "."""


class LayerStream:
    """The tar inside a layer blob, readable from front to back."""

    def __init__(self, blob: BinaryIO, compression: Compression, limits: ImageLimits, *, room: int) -> None:
        """`room` is how many unpacked bytes this layer may still have."""
        self._blob = blob
        self._limits = limits
        self._room = room
        self._blob_hash = hashlib.sha256()
        self._tar_hash = hashlib.sha256()
        self.blob_bytes = 0
        self.tar_bytes = 0
        match compression:
            case Compression.NONE:
                self._chunks = self._raw()
            case Compression.GZIP:
                self._chunks = self._gunzip()
            case Compression.ZSTD:
                self._chunks = self._unzstd()
        self._chunk = memoryview(b"")

    def read_some(self, most: int) -> memoryview:
        """At least one byte and at most `most`; empty only at the end."""
        if not self._chunk and not self._next_chunk():
            return self._chunk
        piece = self._chunk[:most]
        self._chunk = self._chunk[most:]
        return piece

    def read_exact(self, count: int) -> bytes:
        """Exactly `count` bytes (small ones: headers). Raises Refused at a premature end."""
        piece = self.read_some(count)
        if len(piece) == count:
            return bytes(piece)
        pieces = [bytes(piece)]
        missing = count - len(piece)
        while missing:
            piece = self.read_some(missing)
            if not piece:
                raise Refused("a layer's archive ends in the middle of an entry.")
            pieces.append(bytes(piece))
            missing -= len(piece)
        return b"".join(pieces)

    def skip(self, count: int) -> None:
        while count:
            piece = self.read_some(count)
            if not piece:
                raise Refused("a layer's archive ends in the middle of an entry.")
            count -= len(piece)

    def finish(self) -> tuple[str, str]:
        """Read to the end; the digests of the blob and of the tar. What follows a tar's end mark is part of both."""
        self._chunk = memoryview(b"")
        while self._next_chunk():
            pass
        return self.finish_blob(), f"sha256:{self._tar_hash.hexdigest()}"

    def finish_blob(self) -> str:
        """Read the rest of the blob without looking inside; its digest. For telling damage from malice."""
        while self._read(_CHUNK):
            pass
        return f"sha256:{self._blob_hash.hexdigest()}"

    def _next_chunk(self) -> bool:
        chunk = next(self._chunks, None)
        if chunk is None:
            self._chunk = memoryview(b"")
            return False
        self._tar_hash.update(chunk)
        self.tar_bytes += len(chunk)
        # Archives have padding beyond their files, so this bound is a little wider than the one on file sizes.
        if self.tar_bytes > self._room + self._limits.compression_grace_bytes:
            raise Refused(f"unpacked, it has more than {self._limits.unpacked_bytes} bytes.")
        too_dense = self.tar_bytes > self._limits.compression_ratio * max(self.blob_bytes, 1)
        if too_dense and self.tar_bytes > self._limits.compression_grace_bytes:
            raise Refused(f"a layer unpacks to more than {self._limits.compression_ratio} times its size.")
        self._chunk = memoryview(chunk)
        return True

    def _read(self, size: int) -> bytes:
        data = self._blob.read(size)
        self._blob_hash.update(data)
        self.blob_bytes += len(data)
        return data

    def _raw(self) -> Iterator[bytes]:
        while data := self._read(_CHUNK):
            yield data

    def _gunzip(self) -> Iterator[bytes]:
        """Members one after the other are one stream (RFC 1952, 2.2; pigz and estargz write such)."""
        data = self._read(_READ)
        first = True
        while data:
            if not first:
                data = data.lstrip(b"\0")  # gzip(1) allows zero padding after a member; tapes had it.
                if not data:
                    data = self._read(_READ)
                    continue
            member = zlib.decompressobj(wbits=31)
            while not member.eof:
                try:
                    out = member.decompress(data, _CHUNK)
                except zlib.error as error:
                    raise Refused(f"a layer is not gzip: {error}.") from error
                data = member.unconsumed_tail
                if out:
                    yield out
                if not member.eof and not data:
                    data = self._read(_READ)
                    if not data:
                        raise Refused("a layer's gzip stream is cut off.")
            data = member.unused_data or self._read(_READ)
            first = False
        if first:
            raise Refused("a layer is not gzip: it is empty.")

    def _unzstd(self) -> Iterator[bytes]:
        decompressor = zstandard.ZstdDecompressor(max_window_size=self._limits.zstd_window_bytes)
        source = cast(BinaryIO, _Source(self))
        try:
            with decompressor.stream_reader(source, read_size=_READ, read_across_frames=True, closefd=False) as reader:
                while data := reader.read(_CHUNK):
                    yield data
        except zstandard.ZstdError as error:
            raise Refused(f"a layer is not zstd: {error}.") from error


class _Source:
    """What zstandard reads from: the blob, hashed on its way."""

    def __init__(self, stream: LayerStream) -> None:
        self._stream = stream

    def read(self, size: int = -1) -> bytes:
        return self._stream._read(size if size >= 0 else _READ)
