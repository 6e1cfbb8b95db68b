"""Is an image unpacked anew exactly when the disk may not hold it? An app must not start on files without content."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
from tests.images import gzip_layer, tar_of, write_layout

from shellwego.drivers.images import settled
from shellwego.drivers.images import store as stores
from shellwego.drivers.images.settled import SETTLE_AFTER_SECONDS, Unsettled
from shellwego.drivers.images.store import DirectoryImageStore

LONG = SETTLE_AFTER_SECONDS + 1


class Disk:
    """A store's directory, a clock, and syncs that can fail. `mount` is what an agent finds that starts there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name in ("rootfs", "unsettled", "locks"):
            (directory / name).mkdir()
        self.now = 0.0
        self.syncs = 0
        self.fails = False

    def start(self, life: str = "first") -> Unsettled:
        return Unsettled(self.directory, life=life, sync=self.sync, clock=lambda: self.now)

    def sync(self, descriptor: int) -> None:
        os.fstat(descriptor)
        self.syncs += 1
        if self.fails:
            self.fails = False  # The kernel tells of it once.
            raise OSError(errno.EIO, "Input/output error")

    def unpack(self, unsettled: Unsettled, chain: str) -> None:
        unsettled.announce(chain)
        (self.directory / "rootfs" / chain).mkdir(exist_ok=True)

    def markers(self) -> set[str]:
        return {path.name for path in (self.directory / "unsettled").iterdir()}


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def test_what_was_not_synced_is_believed_until_the_file_system_is_mounted_anew(disk: Disk) -> None:
    disk.unpack(disk.start(), "tree")
    assert disk.start().is_trusted("tree"), "a killed agent loses nothing"
    assert not disk.start("second").is_trusted("tree")
    assert not disk.start("first-and-more").is_trusted("tree")


def test_what_was_synced_is_believed_for_good(disk: Disk) -> None:
    """Otherwise every image of a node is unpacked again after every boot."""
    unsettled = disk.start()
    disk.unpack(unsettled, "tree")
    disk.now += LONG
    unsettled.settle()
    assert disk.markers() == set()
    assert disk.start("second").is_trusted("tree")


def test_a_sync_waits_until_the_kernel_has_written_most_of_it(disk: Disk) -> None:
    """The commits of the deploy that follows an unpacking would wait behind it."""
    unsettled = disk.start()
    unsettled.settle()
    unsettled.announce("slow")
    disk.now += LONG
    unsettled.settle()
    assert disk.syncs == 0, "it is being unpacked"
    disk.unpack(unsettled, "other")
    (disk.directory / "rootfs/slow").mkdir()
    disk.now += SETTLE_AFTER_SECONDS
    unsettled.announce("third")
    unsettled.settle()
    assert (disk.syncs, disk.markers()) == (1, {"third"})


def test_a_failed_sync_is_not_made_good_by_the_next(disk: Disk) -> None:
    """The pages that could not be written are clean by then, in this process and for the one after it."""
    unsettled = disk.start()
    disk.unpack(unsettled, "tree")
    unsettled.announce("half")
    disk.now += LONG
    disk.fails = True
    with pytest.raises(OSError, match="Input/output"):
        unsettled.settle()
    for process in (unsettled, disk.start()):
        disk.now += LONG
        process.settle()
        assert not process.is_trusted("tree")
        assert not process.is_trusted("half")
        assert process.may_be_in_use("tree")
    disk.unpack(unsettled, "tree")
    assert unsettled.is_trusted("tree")
    disk.now += LONG
    unsettled.settle()
    assert disk.start("second").is_trusted("tree")
    assert not disk.start("second").may_be_in_use("half")


def test_a_failed_sync_counts_although_it_can_not_be_written_down(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    unsettled = disk.start()
    disk.unpack(unsettled, "tree")
    disk.now += LONG
    disk.fails = True

    def refuse(path: Path, content: bytes) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(settled, "replace_file", refuse)
    with pytest.raises(OSError, match="Input/output"):
        unsettled.settle()
    assert not unsettled.is_trusted("tree")
    later = disk.start()
    disk.now += LONG
    later.settle()
    assert not disk.start("second").is_trusted("tree"), "who didn't see the failure must not settle it"


def test_another_process_s_marker_stays(disk: Disk) -> None:
    """Collected here and unpacked there in the meantime: what is there now is that process's to sync."""
    ours, theirs = disk.start(), disk.start()
    disk.unpack(ours, "tree")
    (disk.directory / "unsettled/tree").unlink()
    disk.unpack(theirs, "tree")
    disk.now += LONG
    ours.settle()
    assert (disk.syncs, disk.markers()) == (0, {"tree"})
    theirs.settle()
    assert (disk.syncs, disk.markers()) == (1, set())


def test_no_descriptor_stays_open(disk: Disk) -> None:
    """It would keep the file system from being unmounted."""
    unsettled = disk.start()
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  numbers, not paths
    for chain in ("a", "b"):
        disk.unpack(unsettled, chain)
    unsettled.withdraw("a")
    shutil.rmtree(disk.directory / "rootfs/a")
    disk.now += LONG
    unsettled.settle()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


# The store.


async def test_the_store_settles_what_it_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settled, "SETTLE_AFTER_SECONDS", 0.0)
    layout = write_layout(tmp_path / "layout", [gzip_layer(tar_of({name: name})) for name in ("base", "said")])
    store = DirectoryImageStore(tmp_path / "store")
    rootfs = (await store.ensure((await store.import_layout(layout)).digest)).rootfs
    markers = tmp_path / "store/unsettled"
    assert {path.name for path in markers.iterdir()} == {path.name for path in rootfs.parent.iterdir()}
    await store.settle()
    assert list(markers.iterdir()) == []


async def test_what_an_instance_may_stand_on_stays_until_the_next_mount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tree whose sync failed is replaced; one that runs on the old one must not lose the files below it."""
    disk = Disk(tmp_path)
    life = "first"
    monkeypatch.setattr(
        stores, "Unsettled", lambda place: Unsettled(place, life=life, sync=disk.sync, clock=lambda: disk.now)
    )
    layout = write_layout(tmp_path / "layout", [gzip_layer(tar_of({"said": "hello"}))])
    store = DirectoryImageStore(tmp_path / "store")
    found = await store.import_layout(layout, name="base/kept")
    rootfs = (await store.ensure(found.digest)).rootfs
    stands_on = os.open(rootfs, os.O_RDONLY)
    disk.now += LONG
    disk.fails = True
    with pytest.raises(OSError, match="Input/output"):
        await store.settle()
    again = (await store.ensure(found.digest)).rootfs
    assert again == rootfs
    assert not os.path.samestat(again.stat(), os.fstat(stands_on))
    await store.collect_garbage([])
    assert os.listdir(stands_on) == ["said"]  # noqa: PTH208  a descriptor, not a path
    life = "second"
    await DirectoryImageStore(tmp_path / "store").collect_garbage([])
    assert os.listdir(stands_on) == []  # noqa: PTH208
    os.close(stands_on)
