"""A redeploy finds the files of its base linked already, and is none the worse when it doesn't."""

from __future__ import annotations

import errno
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
from tests.images import gzip_layer, tar_of, write_layout

from shellwego.core.errors import ImageRefused
from shellwego.drivers.images import trees
from shellwego.drivers.images.limits import ImageLimits
from shellwego.drivers.images.settled import SETTLE_AFTER_SECONDS
from shellwego.drivers.images.store import DirectoryImageStore

LOWER = {"base": "base", "gone": "x", "folder/kept": "kept"}


class Place:
    """A store, and images that differ in their last layer."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store = self.new_store()

    def new_store(self, limits: ImageLimits | None = None) -> DirectoryImageStore:
        return DirectoryImageStore(self.directory / "store", limits=limits)

    async def image(self, number: int, *, lower: dict[str, str] | None = None, more: int = 0) -> str:
        said = {"said": f"hello {number}", ".wh.gone": "", "folder/new": "new"}
        said |= {f"more-{count}": "" for count in range(more)}
        layers = [gzip_layer(tar_of(lower or LOWER)), gzip_layer(tar_of(said))]
        layout = write_layout(self.directory / f"layout-{number}", layers, cmd=("/said",))
        return (await self.store.import_layout(layout)).digest

    async def unpacked(self, number: int, **options: object) -> dict[str, str]:
        found = await self.store.ensure(await self.image(number, **options))  # type: ignore[arg-type]
        files = (path for path in found.rootfs.rglob("*") if path.is_file())
        return {str(path.relative_to(found.rootfs)): path.read_text() for path in files}

    @property
    def ahead(self) -> list[Path]:
        return sorted((self.directory / "store" / "unpacking").iterdir())


def whole(number: int) -> dict[str, str]:
    return {"base": "base", "said": f"hello {number}", "folder/kept": "kept", "folder/new": "new"}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def bases(monkeypatch: pytest.MonkeyPatch) -> list[Path | None]:
    """The tree that each unpacking linked."""
    seen: list[Path | None] = []
    unpack = trees.unpack

    async def watched(*arguments, base=None, **options):
        seen.append(base)
        return await unpack(*arguments, base=base, **options)

    monkeypatch.setattr(trees, "unpack", watched)
    return seen


async def test_the_next_image_begins_with_what_was_linked_ahead(place: Place, bases: list[Path | None]) -> None:
    assert await place.unpacked(1) == whole(1)
    await place.store.get_ahead()
    assert len(place.ahead) == 1
    bases.clear()
    assert await place.unpacked(2) == whole(2)
    assert bases == [None]
    assert place.ahead == []
    assert await place.unpacked(1) == whole(1)  # The first one is as it was.


async def test_getting_ahead_again_makes_one_copy_for_each_base_and_few_at_all(place: Place) -> None:
    """A node of many apps must not keep a copy for each."""
    for number in range(6):
        await place.unpacked(number, lower={**LOWER, "base": f"{number}"})
        await place.store.get_ahead()
        await place.store.get_ahead()
    assert len(place.ahead) == 4


async def test_what_clean_up_took_is_linked_again(place: Place, bases: list[Path | None]) -> None:
    await place.unpacked(1)
    await place.store.get_ahead()
    await place.store.collect_garbage([await place.image(1)])
    assert place.ahead == []
    bases.clear()
    assert await place.unpacked(2) == whole(2)
    assert [base is not None for base in bases] == [True]
    await place.store.get_ahead()
    assert len(place.ahead) == 1


async def test_a_copy_that_the_disk_may_not_have_kept_is_not_used(
    place: Place, bases: list[Path | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel tells of a failed write once; who made files before that has to remember it."""
    await place.unpacked(1)
    await place.store.get_ahead()
    now = time.monotonic()

    def fail(_descriptor: int) -> None:
        raise OSError(errno.EIO, "the disk is broken")

    unsettled = place.store._unsettled
    monkeypatch.setattr(unsettled, "_sync", fail)
    monkeypatch.setattr(unsettled, "_clock", lambda: now + 10 * SETTLE_AFTER_SECONDS)
    with pytest.raises(OSError, match="broken"):
        await place.store.settle()
    bases.clear()
    assert await place.unpacked(2) == whole(2)
    assert bases == [None, bases[1]]  # The lower layers anew, then links to them.
    assert bases[1] is not None


async def test_clean_up_during_the_making_leaves_nothing_to_be_trusted(place: Place, bases: list[Path | None]) -> None:
    await place.unpacked(1)
    await place.store.get_ahead()
    (marker,) = (place.directory / "store" / "unsettled").glob("*.ahead-*")
    marker.unlink()
    bases.clear()
    assert await place.unpacked(2) == whole(2)
    assert [base is not None for base in bases] == [True]
    assert place.ahead == []


async def test_no_marker_outlives_its_copy(place: Place) -> None:
    await place.unpacked(1)
    await place.store.get_ahead()
    await place.unpacked(2)
    assert list((place.directory / "store" / "unsettled").glob("*.ahead-*")) == []


async def test_the_copies_of_a_store_that_is_gone_go(place: Place) -> None:
    """An agent that restarts often would fill the disk with them."""
    await place.unpacked(1)
    await place.store.get_ahead()
    before = place.ahead
    place.store = place.new_store()
    await place.unpacked(2)
    await place.store.get_ahead()
    assert len(place.ahead) == 1
    assert place.ahead != before


async def test_limits_count_what_was_linked_ahead(place: Place) -> None:
    """Else an image could have as many files as it likes, in two parts."""
    place.store = place.new_store(replace(ImageLimits(), entries=12))
    await place.unpacked(1)
    await place.store.get_ahead()
    with pytest.raises(ImageRefused, match="more than 12 entries"):
        await place.unpacked(2, more=8)
    await place.store.get_ahead()
    assert await place.unpacked(3) == whole(3)


async def test_without_a_base_there_is_nothing_to_do(place: Place) -> None:
    await place.store.get_ahead()
    await place.unpacked(1)
    shutil.rmtree(place.directory / "store" / "rootfs")
    (place.directory / "store" / "rootfs").mkdir()
    await place.store.get_ahead()
    assert place.ahead == []
