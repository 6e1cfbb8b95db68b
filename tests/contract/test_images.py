"""What every image store promises (drivers/images/port.py): the fake, and the real one with a real registry."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest
from tests.images import busybox_layout, gzip_layer, tar_of, write_layout
from tests.registry import PASSWORD, USERNAME, Registry, running_registry

from shellwego.core.errors import ImageNotFound, ImageRefused, RegistryUnavailable
from shellwego.drivers.images.fake import FakeImageStore
from shellwego.drivers.images.limits import Patience
from shellwego.drivers.images.port import Credentials, ImageStore, PullProgress
from shellwego.drivers.images.store import DirectoryImageStore

CREDENTIALS = Credentials(USERNAME, PASSWORD)


class Publish(Protocol):
    def __call__(self, layout: Path, name: str, *, private: bool = False) -> str: ...


@dataclass(slots=True)
class World:
    """A store, and a way to put images where it pulls from."""

    store: ImageStore
    publish: Publish
    down: str
    """A reference into a registry that doesn't answer."""


@pytest.fixture(scope="session")
def open_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with running_registry(tmp_path_factory.mktemp("registry")) as registry:
        yield registry


@pytest.fixture(scope="session")
def private_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with running_registry(tmp_path_factory.mktemp("private"), private=True) as registry:
        yield registry


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.root)])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    if request.param == "fake":
        fake = FakeImageStore(tmp_path / "store")
        fake.unavailable.add("down.example")

        def publish_fake(layout: Path, name: str, *, private: bool = False) -> str:
            fake.publish(f"registry.example/{name}", layout, credentials=CREDENTIALS if private else None)
            return f"registry.example/{name}"

        return World(fake, publish_fake, "down.example/app:1")

    def publish(layout: Path, name: str, *, private: bool = False) -> str:
        fixture = "private_registry" if private else "open_registry"
        registry: Registry = request.getfixturevalue(fixture)
        return registry.push(layout, name)

    store = DirectoryImageStore(tmp_path / "store", patience=Patience(first_wait_seconds=0.01))
    return World(store, publish, "127.0.0.1:1/app:1")


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    return busybox_layout(tmp_path / "busybox", cmd=("httpd", "-f"), env={"GREETING": "hello=you"}, exposed_ports=(80,))


def tiny(directory: Path, content: str) -> Path:
    return write_layout(directory, [gzip_layer(tar_of({"said": content}))], cmd=("/said",))


class TestImageStoreContract:
    async def test_a_pulled_image_is_unpacked_and_says_how_to_run(self, world: World, layout: Path) -> None:
        """Without this nothing deploys from an image."""
        image = await world.store.ensure(world.publish(layout, "pulled:1"))
        assert image.config.cmd == ("httpd", "-f")
        assert image.config.env["GREETING"] == "hello=you"
        assert image.config.exposed_ports == (80,)
        assert image.config.working_dir == "/"
        assert (image.rootfs / "bin/busybox").stat().st_mode & 0o777 == 0o755
        assert (image.rootfs / "bin/sh").readlink() == Path("busybox")

    async def test_a_resolved_reference_means_the_same_for_ever(self, world: World, tmp_path: Path) -> None:
        """A rollback must bring back what ran, whatever the tag says today."""
        reference = world.publish(tiny(tmp_path / "a", "one"), "moving:1")
        before = await world.store.resolve(reference)
        assert before.reference.endswith(f"@{before.digest}")
        assert before.size_bytes > 0
        world.publish(tiny(tmp_path / "b", "two"), "moving:1")
        after = await world.store.resolve(reference)
        assert after.digest != before.digest
        assert ((await world.store.ensure(before.reference)).rootfs / "said").read_text() == "one"
        assert ((await world.store.ensure(after.reference)).rootfs / "said").read_text() == "two"
        assert (await world.store.resolve(before.reference)).digest == before.digest

    async def test_ensuring_again_gives_the_same_directory(self, world: World, layout: Path) -> None:
        """Instances that run must not lose the ground they stand on."""
        reference = world.publish(layout, "again:1")
        digest = (await world.store.resolve(reference)).reference
        first = await world.store.ensure(digest)
        inode = first.rootfs.stat().st_ino
        again = await world.store.ensure(digest)
        assert (again, again.rootfs.stat().st_ino) == (first, inode)

    async def test_what_is_here_is_found_without_a_registry(self, world: World, layout: Path) -> None:
        """A restart must not wait for somebody else's registry."""
        reference = (await world.store.resolve(world.publish(layout, "app:1"))).reference
        assert await world.store.find(reference) is None
        stored = await world.store.ensure(reference)
        assert await world.store.find(reference) == stored
        assert await world.store.find(stored.digest) == stored

    async def test_progress_ends_with_every_layer_whole(self, world: World, layout: Path) -> None:
        """People watch a bar; it has to reach its end."""
        seen: list[PullProgress] = []
        await world.store.ensure(world.publish(layout, "progress:1"), on_progress=seen.append)
        assert seen
        assert seen[-1].done_bytes == seen[-1].total_bytes > 0

    async def test_what_does_not_exist_is_not_found(self, world: World, layout: Path) -> None:
        """A typing error is answered as one, not as an outage."""
        reference = world.publish(layout, "exists:1")
        for wrong in (reference.replace(":1", ":2"), f"{reference.rpartition(':')[0]}@sha256:{'0' * 64}"):
            with pytest.raises(ImageNotFound):
                await world.store.resolve(wrong)
            with pytest.raises(ImageNotFound):
                await world.store.ensure(wrong)
        with pytest.raises(ImageNotFound):
            await world.store.ensure(f"sha256:{'0' * 64}")

    async def test_a_private_image_needs_its_credentials(self, world: World, layout: Path) -> None:
        """Another tenant's image must not be had by knowing its name."""
        reference = world.publish(layout, "secret:1", private=True)
        with pytest.raises(ImageNotFound):
            await world.store.resolve(reference)
        with pytest.raises(ImageNotFound):
            await world.store.resolve(reference, credentials=Credentials(USERNAME, "guess"))
        found = await world.store.resolve(reference, credentials=CREDENTIALS)
        assert (await world.store.ensure(reference, credentials=CREDENTIALS)).digest == found.digest
        # Not even when it is here already.
        with pytest.raises(ImageNotFound):
            await world.store.resolve(found.reference)

    async def test_a_registry_that_is_down_is_an_outage(self, world: World) -> None:
        """Retrying helps here, so the error must say so."""
        with pytest.raises(RegistryUnavailable) as caught:
            await world.store.ensure(world.down)
        assert caught.value.retryable

    async def test_nonsense_is_refused(self, world: World) -> None:
        for nonsense in ("", "upper/Case", "a b", "x@sha256:12", "-x", "a//b"):
            with pytest.raises(ImageRefused):
                await world.store.resolve(nonsense)

    async def test_an_imported_name_wins_over_registries(self, world: World, tmp_path: Path) -> None:
        """`FROM python:3` means the cloud's own base image once there is one."""
        imported = await world.store.import_layout(tiny(tmp_path / "a", "ours"), name="base/python")
        assert imported.reference == imported.digest
        for spelling in ("base/python", "base/python:latest", "docker.io/base/python", imported.digest):
            assert (await world.store.resolve(spelling)).digest == imported.digest
            assert ((await world.store.ensure(spelling)).rootfs / "said").read_text() == "ours"
        moved = await world.store.import_layout(tiny(tmp_path / "b", "newer"), name="base/python")
        assert (await world.store.resolve("base/python")).digest == moved.digest

    async def test_what_is_exported_can_be_imported(self, world: World, layout: Path, tmp_path: Path) -> None:
        """The builder starts from exported images and hands back imported ones."""
        imported = await world.store.import_layout(layout)
        await world.store.export_layout(imported.digest, tmp_path / "out")
        index = json.loads((tmp_path / "out/index.json").read_text())
        assert [entry["digest"] for entry in index["manifests"]] == [imported.digest]
        assert await world.store.import_layout(tmp_path / "out") == imported

    async def test_a_layout_that_lies_is_refused(self, world: World, layout: Path, tmp_path: Path) -> None:
        """A build result damaged on its way must not become a release."""
        largest = max((layout / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
        content = largest.read_bytes()
        largest.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(ImageRefused):
            await world.store.import_layout(layout)
        with contextlib.suppress(FileNotFoundError):
            largest.unlink()
        with pytest.raises(ImageRefused):
            await world.store.import_layout(layout)
        with pytest.raises(ImageNotFound):
            await world.store.import_layout(tmp_path / "nothing")

    async def test_a_hostile_layer_is_refused_and_leaves_nothing(self, world: World, tmp_path: Path) -> None:
        """Nothing of it may ever be seen by an app."""
        layout = write_layout(tmp_path / "evil", [gzip_layer(tar_of({"fine": "1", "../escaped": "2"}))])
        reference = world.publish(layout, "evil:1")
        with pytest.raises(ImageRefused, match=r"\.\."):
            await world.store.ensure(reference)
        assert not list((tmp_path / "store/rootfs").iterdir())
        assert not list(tmp_path.rglob("escaped"))
        assert not list((tmp_path / "store/blobs/sha256").iterdir())

    async def test_garbage_goes_and_what_is_needed_stays(self, world: World, tmp_path: Path) -> None:
        """Disks fill up; but an image that a release names must survive every collection."""
        kept = await world.store.ensure(world.publish(tiny(tmp_path / "kept", "kept"), "kept:1"))
        named = await world.store.import_layout(tiny(tmp_path / "named", "named"), name="base/named")
        gone = await world.store.ensure(world.publish(tiny(tmp_path / "gone", "gone"), "gone:1"))
        assert await world.store.collect_garbage({kept.digest}) > 0
        assert (kept.rootfs / "said").read_text() == "kept"
        assert (await world.store.resolve("base/named")).digest == named.digest
        assert ((await world.store.ensure(named.digest)).rootfs / "said").read_text() == "named"
        assert not gone.rootfs.exists()
        with pytest.raises(ImageNotFound):
            await world.store.ensure(gone.digest)
        assert await world.store.collect_garbage({kept.digest}) == 0

    async def test_layers_shared_with_a_kept_image_stay(self, world: World, tmp_path: Path) -> None:
        """A hundred apps stand on one base; removing one of them must not pull it away."""
        base = gzip_layer(tar_of({"base": "shared"}))
        one = write_layout(tmp_path / "one", [base, gzip_layer(tar_of({"said": "one"}))])
        two = write_layout(tmp_path / "two", [base, gzip_layer(tar_of({"said": "two"}))])
        first = await world.store.import_layout(one)
        await world.store.import_layout(two)
        await world.store.collect_garbage({first.digest})
        rootfs = (await world.store.ensure(first.digest)).rootfs
        assert {path.name for path in rootfs.iterdir()} == {"base", "said"}
