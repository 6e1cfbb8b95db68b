"""What is unpacked already costs nothing again: images share the files of the layers that they share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.images import Layer, gzip_layer, tar_of, write_layout
from tests.unit.drivers.images.stores import contents

from shellwego.drivers.images import trees
from shellwego.drivers.images.store import DirectoryImageStore
from shellwego.drivers.images.unpack import CannotLink


def release(directory: Path, number: int, *below: Layer) -> Path:
    return write_layout(directory / f"r{number}", [*below, gzip_layer(tar_of({"said": f"release {number}"}))])


async def test_a_new_last_layer_unpacks_that_layer_alone(store: DirectoryImageStore, tmp_path: Path) -> None:
    """A changed line of code must not cost the unpacking of a whole Python."""
    below = [gzip_layer(tar_of({"python": "large"})), gzip_layer(tar_of({"packages": "many"}))]
    first = await store.ensure((await store.import_layout(release(tmp_path, 1, *below))).digest)
    second = await store.ensure((await store.import_layout(release(tmp_path, 2, *below))).digest)
    for shared in ("python", "packages"):
        assert (first.rootfs / shared).samefile(second.rootfs / shared)
    assert (first.rootfs / "said").read_text() == "release 1"
    assert (second.rootfs / "said").read_text() == "release 2"
    await store.collect_garbage([second.digest])
    assert not first.rootfs.exists()
    third = await store.ensure((await store.import_layout(release(tmp_path, 3, *below))).digest)
    assert (second.rootfs / "packages").samefile(third.rootfs / "packages")
    await store.collect_garbage([])
    assert contents(tmp_path / "store") == []


async def test_what_images_have_in_common_is_unpacked_once(store: DirectoryImageStore, tmp_path: Path) -> None:
    """Every app stands on one of a few bases; and a build step after the source makes two new layers, not one."""
    base = gzip_layer(tar_of({"python": "large"}))
    await store.import_layout(write_layout(tmp_path / "base", [base]), name="base/python")
    images = []
    for app in ("one", "two"):
        steps = [gzip_layer(tar_of({step: f"{step} of {app}"})) for step in ("packages", "source", "built")]
        layout = write_layout(tmp_path / app, [base, *steps])
        images.append(await store.ensure((await store.import_layout(layout)).digest))
    assert (images[0].rootfs / "python").samefile(images[1].rootfs / "python")
    assert (images[1].rootfs / "built").read_text() == "built of two"


async def test_where_files_can_have_one_name_only_images_are_unpacked_whole(
    store: DirectoryImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system's limit on links must not be the end of an app's releases."""
    below = gzip_layer(tar_of({"python": "large"}))
    await store.ensure((await store.import_layout(release(tmp_path, 1, below))).digest)
    real = trees.unpack

    async def unlinkable(*args: Any, base: Path | None = None, **more: Any) -> None:
        if base is not None:
            await real(*args, base=base, **more)
            raise CannotLink("too many links")
        await real(*args, **more)

    monkeypatch.setattr(trees, "unpack", unlinkable)
    image = await store.ensure((await store.import_layout(release(tmp_path, 2, below))).digest)
    assert {path.name: path.stat().st_nlink for path in image.rootfs.iterdir()} == {"python": 1, "said": 1}
