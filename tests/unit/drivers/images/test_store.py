"""The store survives crashes, bad disks and two processes at once, because apps stand on what it holds."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from tests.images import gzip_layer, tar_of, write_layout
from tests.scripted_registry import Answer, Request, ScriptedRegistry
from tests.unit.drivers.images.stores import PATIENCE, contents

from shellwego.core.errors import ImageNotFound, ImageRefused
from shellwego.drivers.images.manifest import digest_of
from shellwego.drivers.images.port import Resolved
from shellwego.drivers.images.store import DirectoryImageStore
from shellwego.kit.faults import declared_points


@pytest.fixture
async def registry() -> AsyncIterator[ScriptedRegistry]:
    async with ScriptedRegistry().serving() as registry:
        yield registry


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    layers = [gzip_layer(tar_of({"base": "base", "gone": "x"})), gzip_layer(tar_of({"said": "hello", ".wh.gone": ""}))]
    return write_layout(tmp_path / "layout", layers, cmd=("/said",))


def assert_sound(store: Path) -> None:
    """Whatever has a name is whole."""
    for blob in (store / "blobs/sha256").iterdir():
        assert digest_of(blob.read_bytes()) == f"sha256:{blob.name}"
    for rootfs in (store / "rootfs").iterdir():
        found = {path.name: path.read_text() for path in rootfs.iterdir()}
        assert found in ({"base": "base", "gone": "x"}, {"base": "base", "said": "hello"})


# Crashes.

PROGRAM = """
import asyncio, sys
from pathlib import Path
from shellwego.drivers.images.store import DirectoryImageStore
store = DirectoryImageStore(Path(sys.argv[1]))
match sys.argv[2]:
    case "pull": work = store.ensure(sys.argv[3])
    case "import": work = store.import_layout(Path(sys.argv[3]), name="base/x")
    case "collect": work = store.collect_garbage([])
asyncio.run(work)
"""


async def run(store: Path, action: str, argument: str, faults: str = "") -> int:
    """Do it in a process of its own; the exit status."""
    environment = {"PATH": os.environ["PATH"], "SHELLWEGO_FAULTS": faults}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM, str(store), action, argument), env=environment
    )
    async with asyncio.timeout(60):
        return await process.wait()


def action_of(point: str) -> str:
    area = point.split(".")[1]
    return {"import": "import", "garbage": "collect"}.get(area, "pull")


POINTS = sorted(
    point
    for point in declared_points()
    if point.split(".")[:2] in [["images", area] for area in ("blob", "pull", "unpack", "import", "garbage")]
)


@pytest.mark.parametrize("point", POINTS)
async def test_a_crash_at_any_step_is_taken_up_again(
    point: str, registry: ScriptedRegistry, layout: Path, tmp_path: Path
) -> None:
    """Killed machines and processes come back, and nobody cleans up by hand."""
    place = tmp_path / "store"
    registry.add(layout, "app:1")
    action = action_of(point)
    argument = {"pull": f"{registry.address}/app:1", "import": str(layout)}.get(action, "")
    store = DirectoryImageStore(place, patience=PATIENCE)
    if action == "collect":
        await store.ensure(f"{registry.address}/app:1")
    assert await run(place, action, argument, f"{point}=exit") == 137, f"{action} does not pass {point}"
    assert_sound(place)
    assert await run(place, action, argument) == 0
    assert_sound(place)
    assert contents(place, "unpacking") == []
    if action != "collect":
        found = await store.ensure("base/x" if action == "import" else argument)
        assert (found.rootfs / "said").read_text() == "hello"
    for name in (place / "names").iterdir():
        name.unlink()
    await store.collect_garbage([])
    assert contents(place) == []


def test_every_step_has_a_point() -> None:
    assert {point.split(".")[1] for point in POINTS} == {"blob", "pull", "unpack", "import", "garbage"}
    assert len(POINTS) >= 12


# Two at once.


async def test_two_processes_download_a_layer_once(registry: ScriptedRegistry, layout: Path, tmp_path: Path) -> None:
    """Server and agent often want the same image at the same moment."""
    registry.add(layout, "app:1")
    reference = f"{registry.address}/app:1"
    place = tmp_path / "store"
    DirectoryImageStore(place)
    assert await asyncio.gather(*(run(place, "pull", reference) for _ in range(3))) == [0, 0, 0]
    layers = [blob.name for blob in (layout / "blobs/sha256").iterdir() if blob.read_bytes()[:1] != b"{"]
    assert [registry.count(f"blobs/sha256:{layer}") for layer in layers] == [1, 1]
    assert_sound(place)
    assert contents(place, "pins", "partial", "unpacking", "trash") == []


async def test_many_at_once_in_one_process(
    registry: ScriptedRegistry, layout: Path, store: DirectoryImageStore, tmp_path: Path
) -> None:
    """Fifty apps of one image, started together, while somebody cleans up."""
    registry.add(layout, "app:1")
    reference = f"{registry.address}/app:1"
    work = [store.ensure(reference) for _ in range(12)] + [store.resolve(reference) for _ in range(12)]
    imports = [store.import_layout(layout, name=f"base/x{number % 2}") for number in range(6)]
    clean = [DirectoryImageStore(tmp_path / "store").collect_garbage([]) for _ in range(3)]
    await asyncio.gather(*work, *imports, *clean)
    assert ((await store.ensure("base/x1")).rootfs / "said").read_text() == "hello"
    assert_sound(tmp_path / "store")


async def test_a_marker_that_is_being_written_is_left_alone(store: DirectoryImageStore, tmp_path: Path) -> None:
    """Somebody's unpacking would fail because somebody else cleaned up in that millisecond."""
    torn = tmp_path / "store/unsettled" / f".{'a' * 64}.1.new"
    torn.write_bytes(b"x")
    await store.collect_garbage([])
    assert torn.exists()
    os.utime(torn, (time.time() - 7200,) * 2)
    await store.collect_garbage([])
    assert not torn.exists()


async def test_an_old_leftover_goes_and_a_new_one_may_be_taken_up(store: DirectoryImageStore, tmp_path: Path) -> None:
    """What a killed process left half-written must not stay for ever."""
    old, new = (tmp_path / "store/partial" / (letter * 64) for letter in "ab")
    torn = tmp_path / "store/blobs/sha256/.x.1.new"
    for path in (old, new, torn):
        path.write_bytes(b"x")
    for path in (old, torn):
        os.utime(path, (time.time() - 7200,) * 2)
    await store.collect_garbage([])
    assert contents(tmp_path / "store") == [f"partial/{'b' * 64}"]


async def test_a_collection_leaves_a_running_pull_alone(
    registry: ScriptedRegistry, layout: Path, store: DirectoryImageStore, tmp_path: Path
) -> None:
    """Clean-ups that race pulls are a classic of every peer (Coolify #6286, Kamal #1923)."""
    registry.add(layout, "app:1")
    reached, go_on = asyncio.Event(), asyncio.Event()
    upper = max(digest for digest, blob in registry.blobs.items() if blob[:1] != b"{")

    async def slowly(writer: asyncio.StreamWriter) -> None:
        writer.write(registry.blobs[upper][:10])
        await writer.drain()
        reached.set()
        await go_on.wait()
        writer.write(registry.blobs[upper][10:])
        await writer.drain()

    def hold(request: Request) -> Answer | None:
        return Answer(length=len(registry.blobs[upper]), stream=slowly) if upper in request.path else None

    registry.rules.append(hold)
    pull = asyncio.ensure_future(store.ensure(f"{registry.address}/app:1"))
    async with asyncio.timeout(30):
        await reached.wait()
        other = DirectoryImageStore(tmp_path / "store")
        before = contents(tmp_path / "store", "blobs/sha256", "images", "pins")
        assert await other.collect_garbage([]) == 0
        assert set(before) <= set(contents(tmp_path / "store"))
        assert (tmp_path / "store/partial" / upper.removeprefix("sha256:")).exists()
        go_on.set()
        image = await pull
    assert (image.rootfs / "said").read_text() == "hello"
    assert await other.collect_garbage([]) > 0
    assert contents(tmp_path / "store") == []


async def test_a_cancelled_pull_leaves_nothing_at_work(
    store: DirectoryImageStore, registry: ScriptedRegistry, tmp_path: Path
) -> None:
    """A deploy that somebody aborts must not go on using disk and CPU."""
    many = gzip_layer(tar_of({f"f{number}": "" for number in range(4_000)}))
    registry.add(write_layout(tmp_path / "many", [many]), "many:1")
    pull = asyncio.ensure_future(store.ensure(f"{registry.address}/many:1"))
    async with asyncio.timeout(30):
        while not contents(tmp_path / "store", "unpacking"):
            assert not pull.done()
            await asyncio.sleep(0.005)
    pull.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pull
    assert contents(tmp_path / "store", "unpacking", "pins", "rootfs") == []
    # Nobody holds a lock any more, so the next one goes straight ahead.
    assert len(list((await store.ensure(f"{registry.address}/many:1")).rootfs.iterdir())) == 4_000


async def test_an_unpacker_does_not_outlive_a_killed_store(
    store: DirectoryImageStore, registry: ScriptedRegistry, tmp_path: Path
) -> None:
    """A server that is killed and started again must not find its own ghost at work in the store."""
    many = gzip_layer(tar_of({f"f{number}": "" for number in range(4_000)}))
    registry.add(write_layout(tmp_path / "many", [many]), "many:1")
    reference = f"{registry.address}/many:1"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM, str(tmp_path / "store"), "pull", reference)
    )
    async with asyncio.timeout(30):
        while not contents(tmp_path / "store", "unpacking"):
            assert process.returncode is None
            await asyncio.sleep(0.005)
        process.kill()
        await process.wait()
        image = await store.ensure(reference)
    assert len(list(image.rootfs.iterdir())) == 4_000
    assert contents(tmp_path / "store", "unpacking") == []


async def test_a_grace_time_protects_what_just_came(tmp_path: Path, layout: Path) -> None:
    """An image that was just built is in no release yet."""
    careful = DirectoryImageStore(tmp_path / "store", grace_seconds=3600)
    found = await careful.import_layout(layout)
    assert await careful.collect_garbage([]) == 0
    record = next((tmp_path / "store/images").iterdir())
    os.utime(record, (time.time() - 7200,) * 2)
    await careful.ensure(found.digest)
    assert await careful.collect_garbage([]) == 0, "using an image makes it young again"
    os.utime(record, (time.time() - 7200,) * 2)
    assert await careful.collect_garbage([]) > 0


# Bad disks.


async def test_a_power_cut_after_unpacking_means_unpacking_again(
    layout: Path, store: DirectoryImageStore, tmp_path: Path
) -> None:
    """Files that were never written back are empty after it, and an app must not start on those."""
    found = await store.import_layout(layout)
    rootfs = (await store.ensure(found.digest)).rootfs
    markers = list((tmp_path / "store/unsettled").iterdir())
    assert {marker.name for marker in markers} == {path.name for path in (tmp_path / "store/rootfs").iterdir()}
    for name in ("said", "base"):  # The latter is shared with the tree below.
        (rootfs / name).write_text("")
    for marker in markers:
        marker.write_text("another life")
    assert ((await store.ensure(found.digest)).rootfs / "said").read_text() == "hello"
    assert_sound(tmp_path / "store")


async def test_a_layer_that_the_disk_did_not_keep_is_fetched_again(
    registry: ScriptedRegistry,
    layout: Path,
    store: DirectoryImageStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a failed fsync left lies in memory alone, and the next fsync of it succeeds."""
    registry.add(layout, "app:1")
    failed: list[str] = []

    def fsync(descriptor: int, real: Callable[[int], None] = os.fsync) -> None:
        file = Path(f"/proc/self/fd/{descriptor}").readlink()
        if not failed and file.parent.name == "partial":
            failed.append(f"partial/{file.name}")
            raise OSError(errno.EIO, "Input/output error")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="Input/output"):
        await store.ensure(f"{registry.address}/app:1")
    assert failed[0] not in contents(tmp_path / "store", "partial")
    assert (await store.ensure(f"{registry.address}/app:1")).rootfs.is_dir()


# Damage.


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", [cut, flip, Path.unlink])
@pytest.mark.parametrize("by", ["name", "digest", "bare digest"])
async def test_a_damaged_blob_is_fetched_again(
    damage: Callable[[Path], None],
    by: str,
    registry: ScriptedRegistry,
    layout: Path,
    store: DirectoryImageStore,
    tmp_path: Path,
) -> None:
    """Bits rot. The registry still has them, so nobody has to notice."""
    registry.add(layout, "app:1")
    found = await store.resolve(f"{registry.address}/app:1")
    reference = {"name": f"{registry.address}/app:1", "digest": found.reference, "bare digest": found.digest}[by]
    await store.ensure(found.reference)
    layers = [b for b in (tmp_path / "store/blobs/sha256").iterdir() if b.read_bytes()[:1] != b"{"]
    for layer in layers:
        damage(layer)
    for rootfs in list((tmp_path / "store/rootfs").iterdir()):
        rootfs.rename(tmp_path / f"as after losing {rootfs.name}")
    assert ((await store.ensure(reference)).rootfs / "said").read_text() == "hello"
    assert_sound(tmp_path / "store")
    for layer in layers:
        damage(layer)
    await store.export_layout(reference, tmp_path / "out")
    assert_sound(tmp_path / "store")
    again = DirectoryImageStore(tmp_path / "again")
    assert (await again.import_layout(tmp_path / "out")).digest == found.digest
    for layer in layers:  # Found whole just now, and still it is looked at.
        damage(layer)
    await store.export_layout(reference, tmp_path / "out again")
    assert_sound(tmp_path / "store")


@pytest.mark.parametrize("damage", [cut, flip, Path.unlink])
async def test_a_damaged_manifest_is_fetched_again(
    damage: Callable[[Path], None],
    registry: ScriptedRegistry,
    layout: Path,
    store: DirectoryImageStore,
    tmp_path: Path,
) -> None:
    registry.add(layout, "app:1")
    found = await store.resolve(f"{registry.address}/app:1")
    first = await store.ensure(found.reference)
    for blob in (tmp_path / "store/blobs/sha256").iterdir():
        if blob.read_bytes()[:1] == b"{":
            damage(blob)
    # The collector can't read it either, and must not take the image apart for that.
    await store.collect_garbage([found.digest])
    assert await store.ensure(found.reference) == first
    assert_sound(tmp_path / "store")


async def test_a_damaged_import_says_what_to_do(layout: Path, store: DirectoryImageStore, tmp_path: Path) -> None:
    """There is nowhere to fetch it from; building it again is what helps."""
    found = await store.import_layout(layout)
    for blob in (tmp_path / "store/blobs/sha256").iterdir():
        if blob.read_bytes()[:1] != b"{":
            flip(blob)
    with pytest.raises(ImageNotFound, match="Build it again"):
        await store.ensure(found.digest)
    assert contents(tmp_path / "store", "rootfs", "unpacking") == []
    # And building it again does help.
    again = write_layout(
        tmp_path / "again",
        [gzip_layer(tar_of({"base": "base", "gone": "x"})), gzip_layer(tar_of({"said": "hello", ".wh.gone": ""}))],
        cmd=("/said",),
    )
    assert await store.import_layout(again) == found
    assert ((await store.ensure(found.digest)).rootfs / "said").read_text() == "hello"


async def test_an_image_with_a_wrong_diff_id_is_refused(store: DirectoryImageStore, tmp_path: Path) -> None:
    """The root file system is shared by its layers' digests; a wrong one would be everybody's."""
    good, evil = gzip_layer(tar_of({"a": "good"})), gzip_layer(tar_of({"a": "evil"}))
    lying = type(good)(evil.media_type, evil.blob, good.diff_id)
    found = await store.import_layout(write_layout(tmp_path / "evil", [lying]))
    with pytest.raises(ImageRefused, match="its config says"):
        await store.ensure(found.digest)
    assert contents(tmp_path / "store") == []


async def test_a_refusal_leaves_what_others_need(store: DirectoryImageStore, tmp_path: Path) -> None:
    """A hostile image that names the layers of a good one must not take them along."""
    base = gzip_layer(tar_of({"a": "good"}))
    good = await store.import_layout(write_layout(tmp_path / "good", [base]))
    bad = await store.import_layout(write_layout(tmp_path / "bad", [base, gzip_layer(tar_of({"../x": ""}))]))
    with pytest.raises(ImageRefused):
        await store.ensure(bad.digest)
    assert ((await store.ensure(good.digest)).rootfs / "a").read_text() == "good"
    assert len(contents(tmp_path / "store", "blobs/sha256")) == 3


async def test_a_layout_s_links_are_not_followed(layout: Path, store: DirectoryImageStore, tmp_path: Path) -> None:
    """A layout may be a tenant's directory, with a link to the node's secrets."""
    blob = max((layout / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    blob.rename(tmp_path / "secret")
    blob.symlink_to(tmp_path / "secret")
    with pytest.raises(ImageRefused, match="missing"):
        await store.import_layout(layout)


async def test_a_layout_others_can_write_is_copied(layout: Path, store: DirectoryImageStore, tmp_path: Path) -> None:
    """A hard link into the store would let them change it afterwards."""
    blobs = sorted((layout / "blobs/sha256").iterdir())
    for blob in blobs:
        blob.chmod(0o666)
    await store.import_layout(layout)
    assert all(blob.stat().st_nlink == 1 for blob in blobs)


async def test_a_layout_with_two_images_is_refused(layout: Path, store: DirectoryImageStore, tmp_path: Path) -> None:
    """Taking either would be a guess about what somebody wants to run."""
    other = write_layout(tmp_path / "other", [gzip_layer(tar_of({"a": "b"}))])
    index = json.loads((layout / "index.json").read_text())
    index["manifests"] += json.loads((other / "index.json").read_text())["manifests"]
    (layout / "index.json").write_text(json.dumps(index))
    with pytest.raises(ImageRefused, match="holds 2 images"):
        await store.import_layout(layout)


async def test_a_store_is_closed_to_other_users(store: DirectoryImageStore, tmp_path: Path) -> None:
    """Images hold setuid programs, which a user of the host could run."""
    assert (tmp_path / "store").stat().st_mode & 0o077 == 0


async def test_an_image_without_layers_is_an_empty_directory(store: DirectoryImageStore, tmp_path: Path) -> None:
    found: Resolved = await store.import_layout(write_layout(tmp_path / "empty", []))
    assert list((await store.ensure(found.digest)).rootfs.iterdir()) == []
