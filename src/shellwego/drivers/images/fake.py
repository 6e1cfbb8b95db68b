"""An image store for tests about something else: no registry, no lock, no process, same promises.

The "registries" are a dictionary that `publish` fills. Layers are unpacked by the real rules (extract.py), in the
calling thread. `unavailable` names registries that are down, to see what a caller does then.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection
from pathlib import Path

from shellwego.core.errors import ImageNotFound, ImageRefused, RegistryUnavailable
from shellwego.drivers.images import layout as layouts
from shellwego.drivers.images.blobs import BlobStore, WrongContent
from shellwego.drivers.images.limits import ImageLimits
from shellwego.drivers.images.manifest import LAYER_TYPES, Descriptor, host_platform
from shellwego.drivers.images.port import Credentials, PullProgress, Resolved, StoredImage
from shellwego.drivers.images.records import Image
from shellwego.drivers.images.reference import Reference, parse_reference
from shellwego.drivers.images.streams import Refused
from shellwego.drivers.images.unpacker import Damaged, PackedLayer, new_extractor, unpack_here


class FakeImageStore:
    """Keeps the ImageStore port in one process and one directory."""

    def __init__(self, directory: Path) -> None:
        self.unavailable: set[str] = set()
        self.pulled: list[str] = []
        """Layer digests in the order they were "downloaded"."""
        self._directory = directory
        self._limits = ImageLimits()
        self._platform = host_platform()
        self._blobs = BlobStore(directory)
        for path in (self._blobs.blobs, self._blobs.partial, directory / "rootfs"):
            path.mkdir(parents=True, exist_ok=True)
        self._published: dict[str, tuple[Path, Image, Credentials | None]] = {}
        self._names: dict[str, str] = {}
        self._images: dict[str, Image] = {}

    def publish(self, reference: str, layout: Path, *, credentials: Credentials | None = None) -> str:
        """Put the layout's image into the imaginary registry, shown only to who has the credentials. Its digest."""
        image = layouts.read_layout(layout, self._platform, self._limits)
        wanted = parse_reference(reference)
        for name in (str(wanted), f"{wanted.name}@{image.digest}"):
            self._published[name] = (layout, image, credentials)
        return image.digest

    async def resolve(self, reference: str, *, credentials: Credentials | None = None) -> Resolved:
        wanted = parse_reference(reference)
        digest = self._find_local(wanted)
        if digest is not None:
            return _resolved(digest, self._get(reference, digest))
        _, image = self._find_published(wanted, credentials)
        return _resolved(f"{wanted.name}@{image.digest}", image)

    async def find(self, reference: str) -> StoredImage | None:
        wanted = parse_reference(reference)
        image = self._images.get(self._find_local(wanted) or wanted.digest)
        if image is None or not self._rootfs(image).is_dir():
            return None
        return StoredImage(image.digest, self._rootfs(image), image.config.image)

    async def ensure(
        self,
        reference: str,
        *,
        credentials: Credentials | None = None,
        on_progress: Callable[[PullProgress], None] = lambda _: None,
    ) -> StoredImage:
        wanted = parse_reference(reference)
        digest = self._find_local(wanted)
        if digest is None and wanted.digest in self._images and self._rootfs(self._images[wanted.digest]).is_dir():
            digest = wanted.digest
        if digest is not None:
            image = self._get(reference, digest)
        else:
            layout, image = self._find_published(wanted, credentials)
            self._take(layout, image, on_progress)
        rootfs = self._rootfs(image)
        if not rootfs.is_dir():
            try:
                self._unpack(image, rootfs)
            except (Refused, Damaged) as error:
                shutil.rmtree(rootfs, ignore_errors=True)
                self._drop(image.digest)
                raise ImageRefused(reference, str(error)) from error
        return StoredImage(image.digest, rootfs, image.config.image)

    async def import_layout(self, layout: Path, *, name: str | None = None) -> Resolved:
        image = layouts.read_layout(layout, self._platform, self._limits)
        self._take(layout, image, lambda _: None)
        if name is not None:
            self._names[str(parse_reference(name))] = image.digest
        return _resolved(image.digest, image)

    async def export_layout(self, reference: str, directory: Path) -> None:
        wanted = parse_reference(reference)
        image = self._get(reference, self._find_local(wanted) or wanted.digest)
        try:
            layouts.write_layout(image, directory, self._blobs, tag=wanted.tag or "latest")
        except (WrongContent, FileNotFoundError) as error:
            raise ImageNotFound(reference, "a layer of it is damaged") from error

    async def settle(self) -> None:
        """Memory knows no disk."""

    async def get_ahead(self) -> None:
        return

    async def collect_garbage(self, keep: Collection[str]) -> int:
        needed = {digest.rpartition("@")[2] for digest in keep} | set(self._names.values())
        return sum(self._drop(digest) for digest in list(self._images) if digest not in needed)

    def _find_local(self, wanted: Reference) -> str | None:
        return wanted.digest if wanted.is_bare_digest else self._names.get(str(wanted))

    def _get(self, reference: str, digest: str) -> Image:
        try:
            return self._images[digest]
        except KeyError:
            raise ImageNotFound(reference, "this node has no such image") from None

    def _find_published(self, wanted: Reference, credentials: Credentials | None) -> tuple[Path, Image]:
        if wanted.registry in self.unavailable:
            raise RegistryUnavailable(wanted.registry, "it is down.")
        layout, image, needed = self._published.get(str(wanted), (None, None, None))
        if layout is None or image is None:
            raise ImageNotFound(str(wanted), "the registry doesn't know it")
        if needed is not None and needed != credentials:
            raise ImageNotFound(str(wanted), "the registry doesn't show it")
        return layout, image

    def _take(self, layout: Path, image: Image, on_progress: Callable[[PullProgress], None]) -> None:
        for layer in image.manifest.layers:
            if not self._blobs.has(layer):
                layouts.take_layer(layout.name, layout, layer, self._blobs)
                self.pulled.append(layer.digest)
            on_progress(PullProgress(layer.digest, layer.size, layer.size))
        self._images[image.digest] = image

    def _rootfs(self, image: Image) -> Path:
        return self._directory / "rootfs" / image.config.chain

    def _unpack(self, image: Image, rootfs: Path) -> None:
        layers = [
            PackedLayer(str(self._blobs.path(layer.digest)), layer.digest, diff_id, LAYER_TYPES[layer.media_type])
            for layer, diff_id in zip(image.manifest.layers, image.config.diff_ids, strict=True)
        ]
        rootfs.mkdir()
        blobs = [os.open(layer.blob, os.O_RDONLY | os.O_CLOEXEC) for layer in layers]
        root = os.open(rootfs, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            unpack_here(new_extractor(root, self._limits), layers, self._limits, blobs)
        finally:
            os.close(root)

    def _drop(self, digest: str) -> int:
        image = self._images.pop(digest)
        others = self._images.values()
        still: set[Descriptor] = {layer for other in others for layer in other.manifest.layers}
        freed = 0
        for layer in set(image.manifest.layers) - still:
            freed += layer.size
            self._blobs.discard(layer.digest)
        if all(other.config.chain != image.config.chain for other in others):
            shutil.rmtree(self._rootfs(image), ignore_errors=True)
        return freed


def _resolved(reference: str, image: Image) -> Resolved:
    return Resolved(reference, image.digest, image.config.image, image.size_bytes)
