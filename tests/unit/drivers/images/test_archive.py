"""Our tar reader must see what every other tar sees, or people's files vanish; and survive what makes others fall."""

from __future__ import annotations

import contextlib
import gzip
import io
import subprocess
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shellwego.drivers.images.archive import Archive, Entry
from shellwego.drivers.images.limits import ImageLimits
from shellwego.drivers.images.manifest import Compression, digest_of
from shellwego.drivers.images.streams import LayerStream, Refused

LIMITS = ImageLimits()


def stream_of(blob: bytes, compression: Compression = Compression.NONE, limits: ImageLimits = LIMITS) -> LayerStream:
    return LayerStream(io.BytesIO(blob), compression, limits, room=limits.unpacked_bytes)


def read(tar: bytes) -> list[tuple[Entry, bytes]]:
    """Every entry with its stored data."""
    archive = Archive(stream_of(tar), LIMITS)
    found = []
    for entry in archive:
        data = b""
        while piece := archive.data(1000):
            data += piece
        found.append((entry, data))
    return found


names = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0/"), min_size=1, max_size=130)
paths = st.lists(names, min_size=1, max_size=3).map("/".join).filter(lambda path: path.strip("/. ") != "")


@st.composite
def members(draw: st.DrawFn) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(draw(paths))
    member.type = draw(st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE]))
    member.mode = draw(st.integers(0, 0o7777))
    member.uid, member.gid = draw(st.integers(0, 2**33)), draw(st.integers(0, 2**21))
    member.mtime = draw(st.integers(0, 2**34))
    data = draw(st.binary(max_size=1500)) if member.type == tarfile.REGTYPE else b""
    member.size = len(data)
    if member.type in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        member.linkname = draw(paths)
    return member, data


@settings(deadline=None)
@given(st.lists(members(), max_size=5), st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]))
def test_reads_what_others_write(entries: list[tuple[tarfile.TarInfo, bytes]], format: int) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format, encoding="utf-8") as tar:
        for member, data in entries:
            tar.addfile(member, io.BytesIO(data))
    found = read(out.getvalue())
    with tarfile.open(fileobj=io.BytesIO(out.getvalue()), encoding="utf-8") as tar:
        expected = list(tar)
        assert len(found) == len(expected)
        for (ours, data), member in zip(found, expected, strict=True):
            assert ours.name.rstrip(b"/") == member.name.encode().rstrip(b"/")
            assert (ours.mode, ours.uid, ours.gid) == (member.mode, member.uid, member.gid)
            assert ours.mtime_ns // 10**9 == member.mtime
            assert ours.link.decode() == member.linkname
            if member.isreg():
                file = tar.extractfile(member)
                assert file is not None
                assert data == file.read()


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=2000) | st.binary(max_size=3).map(lambda seed: (seed + b"\0" * 512)[:512] * 4))
@example(b"\0" * 511)
@example(tarfile.TarInfo("x").tobuf()[:-1])
def test_any_bytes_are_read_or_refused(tar: bytes) -> None:
    with contextlib.suppress(Refused):
        read(tar)


@st.composite
def bent_archives(draw: st.DrawFn) -> bytes:
    """Valid archives with some bytes of their headers changed and the checksums made right again."""
    out = io.BytesIO()
    with tarfile.open(
        fileobj=out, mode="w", format=draw(st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]))
    ) as tar:
        for member, data in draw(st.lists(members(), min_size=1, max_size=3)):
            tar.addfile(member, io.BytesIO(data))
    tar_bytes = bytearray(out.getvalue())
    for _ in range(draw(st.integers(1, 6))):
        block = 512 * draw(st.integers(0, len(tar_bytes) // 512 - 1))
        at = draw(st.integers(0, 511))
        tar_bytes[block + at : block + at + 1] = draw(
            st.sampled_from([b"\0", b"\xff", b"\x80", b"7", b"S", b"x", b"g", b"L", b"9"])
        )
        header = tar_bytes[block : block + 512]
        total = sum(header[:148]) + sum(header[156:]) + 256
        tar_bytes[block + 148 : block + 156] = b"%06o\0 " % total
    return bytes(tar_bytes)


@settings(max_examples=200, deadline=None)
@given(bent_archives())
def test_bent_headers_are_read_or_refused(tar: bytes) -> None:
    try:
        for entry, _ in read(tar):
            assert entry.size >= 0
            assert 0 <= entry.mode <= 0o7777
    except Refused:
        pass


@pytest.mark.parametrize("format", ["gnu", "posix"])
def test_sparse_files_keep_their_holes(format: str, tmp_path: Path) -> None:
    """Databases ship sparse files; without this they would arrive scrambled."""
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        for number in range(40):
            file.seek(number * 100_000)
            file.write(b"%03d" % number * 10)
        file.truncate(10_000_000)
    for version in (
        (["--sparse-version=0.0"], ["--sparse-version=0.1"], ["--sparse-version=1.0"]) if format == "posix" else ([],)
    ):
        tar = subprocess.run(
            ["tar", "--create", "--sparse", *version, f"--format={format}", "-C", tmp_path, "sparse"],
            check=True,
            capture_output=True,
        ).stdout
        ((entry, data),) = read(tar)
        assert entry.name == b"sparse"
        assert entry.size == 10_000_000
        assert entry.pieces is not None
        whole = bytearray(entry.size)
        for offset, length in entry.pieces:
            whole[offset : offset + length], data = data[:length], data[length:]
        assert whole == path.read_bytes()


def header(name: bytes, kind: bytes, size: int) -> bytes:
    member = tarfile.TarInfo(name.decode())
    member.type, member.size = kind, size
    return member.tobuf(tarfile.USTAR_FORMAT)


@pytest.mark.parametrize(
    ("tar", "why"),
    [
        (header(b"x", b"x", 1 << 32), "header of"),
        (header(b"x", b"L", 1 << 32), "header of"),
        (header(b"x", b"L", 10) + b"n" * 512, "announces an entry"),
        ((header(b"x", b"x", 0)) * 20, "too many headers"),
        (header(b"x", b"x", 13) + b"99 path=aaaa\n".ljust(512, b"\0"), "broken extended header"),
        (header(b"x", b"x", 5) + b"0 a=\n".ljust(512, b"\0"), "broken extended header"),
        (header(b"x", b"0", 1000) + b"a" * 512, "in the middle"),
        (b"not a tar archive at all".ljust(512), "no tar archive"),
    ],
)
def test_refuses_with_the_reason(tar: bytes, why: str) -> None:
    """A header of four gigabytes would otherwise be four gigabytes of our memory."""
    with pytest.raises(Refused, match=why):
        read(tar)


TAR = b"".join(header(b"f", b"0", 3) + b"abc".ljust(512, b"\0") for _ in range(300)) + bytes(1024)


def two_members(data: bytes) -> bytes:
    return gzip.compress(data[:1000]) + gzip.compress(data[1000:]) + bytes(20)


@pytest.mark.parametrize(
    ("pack", "compression"),
    [
        (bytes, Compression.NONE),
        (gzip.compress, Compression.GZIP),
        (two_members, Compression.GZIP),
        (zstandard.ZstdCompressor().compress, Compression.ZSTD),
        (lambda data: zstandard.compress(data[:999]) + zstandard.compress(data[999:]), Compression.ZSTD),
    ],
)
def test_both_digests_are_of_everything(pack: Callable[[bytes], bytes], compression: Compression) -> None:
    blob = pack(TAR)
    stream = stream_of(blob, compression)
    assert stream.read_exact(5) == TAR[:5]
    stream.skip(1000)
    assert bytes(stream.read_some(3)) == TAR[1005:1008]
    assert stream.finish() == (digest_of(blob), digest_of(TAR))


@pytest.mark.parametrize(
    ("blob", "compression", "why"),
    [
        (b"", Compression.GZIP, "empty"),
        (gzip.compress(TAR)[:-1], Compression.GZIP, "cut off"),
        (gzip.compress(TAR)[:-8] + b"x" * 8, Compression.GZIP, "not gzip"),
        (gzip.compress(TAR) + b"trailing", Compression.GZIP, "not gzip"),
        (zlib.compress(TAR), Compression.GZIP, "not gzip"),
        (TAR, Compression.GZIP, "not gzip"),
        (TAR, Compression.ZSTD, "not zstd"),
    ],
)
def test_a_blob_that_is_not_what_it_says_is_refused(blob: bytes, compression: Compression, why: str) -> None:
    with pytest.raises(Refused, match=why):
        stream_of(blob, compression).finish()


@pytest.mark.parametrize("pack", [(gzip.compress, Compression.GZIP), (zstandard.compress, Compression.ZSTD)])
def test_a_bomb_is_refused_before_it_is_written(pack: tuple[Callable[[bytes], bytes], Compression]) -> None:
    """A megabyte of image must not become a gigabyte of disk."""
    limits = ImageLimits(compression_grace_bytes=4 * 1024 * 1024)
    stream = stream_of(pack[0](bytes(64 * 1024 * 1024)), pack[1], limits)
    with pytest.raises(Refused, match="200 times"):
        stream.finish()
    assert stream.tar_bytes < 16 * 1024 * 1024
    small = ImageLimits(unpacked_bytes=1024, compression_grace_bytes=1024)
    with pytest.raises(Refused, match="more than 1024 bytes"):
        stream_of(bytes(8192), Compression.NONE, small).finish()


def test_a_zstd_window_may_not_take_all_memory() -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=28)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj(size=300 * 1024 * 1024)
    with pytest.raises(Refused, match="not zstd"):
        stream_of(compressor.compress(bytes(2 * 1024 * 1024)), Compression.ZSTD).finish()
