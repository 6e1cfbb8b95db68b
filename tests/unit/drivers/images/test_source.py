"""An uploaded source is a stranger's archive: it is unpacked whole, or refused and gone."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from shellwego.core.errors import InvalidField
from shellwego.drivers.images.source import unpack_source


def pack(path: Path, entries: dict[str, bytes], mode: str = "w:gz") -> str:
    with tarfile.open(path, mode) as archive:
        for name, content in entries.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("mode", ["w:gz", "w"])
async def test_a_source_arrives_as_it_was_packed(tmp_path: Path, mode: str) -> None:
    digest = pack(tmp_path / "a.tar", {"app.py": b"print()", "static/x.css": b"a"}, mode)
    await unpack_source(tmp_path / "a.tar", digest, tmp_path / "out")
    assert (tmp_path / "out/static/x.css").read_bytes() == b"a"


async def test_a_path_out_of_the_source_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    digest = pack(tmp_path / "a.tar", {"ok": b"1", "../evil": b"2"})
    with pytest.raises(InvalidField, match="source"):
        await unpack_source(tmp_path / "a.tar", digest, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "evil").exists()


async def test_a_damaged_upload_is_told_to_come_again(tmp_path: Path) -> None:
    pack(tmp_path / "a.tar", {"ok": b"1"})
    with pytest.raises(InvalidField, match="again"):
        await unpack_source(tmp_path / "a.tar", "0" * 64, tmp_path / "out")


async def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"hello" * 1000)
    digest = hashlib.sha256((tmp_path / "a.tar").read_bytes()).hexdigest()
    with pytest.raises(InvalidField):
        await unpack_source(tmp_path / "a.tar", digest, tmp_path / "out")
