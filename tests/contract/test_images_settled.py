"""What a real file system keeps of an image whose disk stops, is checked, and is mounted again without a reboot."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.e2e.small_disk import SmallDisk, small_disk
from tests.images import gzip_layer, tar_of, write_layout

from shellwego.drivers.images import settled
from shellwego.drivers.images.port import StoredImage
from shellwego.drivers.images.store import DirectoryImageStore
from shellwego.kit.files import sync_directory

pytestmark = pytest.mark.root

STOPS = [pytest.param(SmallDisk.stop_writing, id="stopped"), pytest.param(SmallDisk.take_away, id="gone")]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path, size_mib=64) as disk:
        yield disk


async def unpacked(store: DirectoryImageStore, directory: Path) -> StoredImage:
    layers = [gzip_layer(tar_of({name: name * 2000})) for name in ("base", "said")]
    return await store.ensure((await store.import_layout(write_layout(directory / "layout", layers))).digest)


@pytest.mark.parametrize("stop", STOPS)
async def test_what_never_reached_the_disk_is_unpacked_anew(
    disk: SmallDisk, stop: Callable[[SmallDisk], None], tmp_path: Path
) -> None:
    """The boot is the same, and so is even the mount's id. The tree may be there, with files without content."""
    before = await unpacked(DirectoryImageStore(disk.path / "store"), tmp_path)
    stop(disk)
    disk.repair()
    store = DirectoryImageStore(disk.path / "store")
    assert await store.find(before.digest) is None
    image = await store.ensure(before.digest)
    assert {path.name: path.read_text() for path in image.rootfs.iterdir()} == {n: n * 2000 for n in ("base", "said")}


@pytest.mark.parametrize("stop", STOPS)
async def test_what_is_settled_is_there(
    disk: SmallDisk, stop: Callable[[SmallDisk], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settled, "SETTLE_AFTER_SECONDS", 0.0)
    store = DirectoryImageStore(disk.path / "store")
    before = await unpacked(store, tmp_path)
    await store.settle()
    sync_directory(disk.path / "store/unsettled")  # As the kernel does by itself within seconds.
    stop(disk)
    del store
    disk.repair()
    image = await DirectoryImageStore(disk.path / "store").find(before.digest)
    assert image is not None
    assert {path.name: path.read_text() for path in image.rootfs.iterdir()} == {n: n * 2000 for n in ("base", "said")}


async def test_a_sync_of_a_disk_that_stopped_settles_nothing(
    disk: SmallDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """syncfs(2) of a file system that became read-only succeeds, having written nothing."""
    monkeypatch.setattr(settled, "SETTLE_AFTER_SECONDS", 0.0)
    store = DirectoryImageStore(disk.path / "store")
    before = await unpacked(store, tmp_path)
    disk.stop_writing()
    with pytest.raises(OSError, match="Read-only"):
        await store.settle()
    del store
    disk.repair()
    assert await DirectoryImageStore(disk.path / "store").find(before.digest) is None
