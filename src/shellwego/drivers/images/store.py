"""Where are a node's images, and how does one become a directory that instances can stand on?

One directory, shared by server and agent, each with a store object of its own:

    blobs/sha256/HEX     manifests, configs, layers; the name appears when the content is whole and on disk
    partial/HEX          a blob on its way
    images/HEX.json      what is known of an image (records.py)      names/  pins/  beside it
    rootfs/CHAIN         an unpacked image, or its lower layers (trees.py); the name appears when it is complete
    unsettled/CHAIN      it would not survive the next mount of the disk (settled.py)
    unpacking/CHAIN.x    one on its way, or linked ahead for the next image (ahead.py)
    trash/               on its way out                                   locks/  who is at work

So a crash at any instruction leaves whole things with names and half ones without. The directory is closed to
everyone but root: images hold setuid programs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from shellwego.core.errors import DiskFull, ImageNotFound, ImageRefused, RegistryUnavailable
from shellwego.core.networks import AllowedNetwork
from shellwego.drivers.images import layout as layouts
from shellwego.drivers.images.blobs import BlobStore, WrongContent
from shellwego.drivers.images.collect import Collector
from shellwego.drivers.images.distribution import RegistryClient
from shellwego.drivers.images.limits import ImageLimits, Patience
from shellwego.drivers.images.locks import locked
from shellwego.drivers.images.manifest import (
    Index,
    Platform,
    choose_platform,
    host_platform,
    parse_config,
    parse_manifest,
)
from shellwego.drivers.images.port import Credentials, PullProgress, Resolved, StoredImage
from shellwego.drivers.images.pull import OnProgress, fetch_image, fetch_layers
from shellwego.drivers.images.records import Image, Records
from shellwego.drivers.images.reference import Reference, parse_reference
from shellwego.drivers.images.settled import Unsettled
from shellwego.drivers.images.threads import in_thread
from shellwego.drivers.images.trees import Trees
from shellwego.drivers.images.unpacker import Damaged
from shellwego.kit.faults import fault_point, reach

IMAGE_RESOLVED = fault_point("images.pull.resolved")
IMAGE_PINNED = fault_point("images.pull.pinned")
LAYERS_FETCHED = fault_point("images.pull.fetched")
IMAGE_IMPORTED = fault_point("images.import.stored")
IMAGE_NAMED = fault_point("images.import.named")

_DIRECTORIES = (
    "blobs/sha256",
    "partial",
    "images",
    "names",
    "pins",
    "rootfs",
    "unpacking",
    "unsettled",
    "trash",
    "locks",
)
_REPAIRS = 3
_writing = threading.Lock()
"""Small files are replaced by way of a neighbour named after the process, so its threads must take turns."""


class DirectoryImageStore:
    """The ImageStore of a node (port.py says what each method promises)."""

    def __init__(
        self,
        directory: Path,
        *,
        insecure_registries: frozenset[str] = frozenset(),
        opened: Collection[AllowedNetwork] | None = None,
        platform: Platform | None = None,
        limits: ImageLimits | None = None,
        patience: Patience | None = None,
        extra_ca: Path | None = None,
        grace_seconds: float = 0.0,
    ) -> None:
        """
        `insecure_registries` (`host` or `host:port`) may use plain HTTP and have any address; others may have a private
        one in the `opened` networks alone, None for any. `extra_ca` is a PEM
        file of further authorities. `grace_seconds` is how long an image stays after its last use although nobody
        keeps it: the time between an image's arrival and its mention in whatever the caller computes `keep` from.
        """
        for name in _DIRECTORIES:
            (directory / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        if directory.stat().st_mode & 0o777 != 0o700:  # A read-only disk refuses also what is so already.
            directory.chmod(0o700)
        self._directory = directory
        self._platform = platform or host_platform()
        self._limits = limits or ImageLimits()
        self._patience = patience or Patience()
        self._blobs = BlobStore(directory)
        self._records = Records(directory)
        self._unsettled = Unsettled(directory)
        self._collector = Collector(
            directory, self._blobs, self._records, self._unsettled, self._limits, grace_seconds=grace_seconds
        )
        self._trees = Trees(directory, self._blobs, self._unsettled, self._collector, self._limits)
        self._registries = RegistryClient(
            insecure_registries=insecure_registries,
            extra_ca=extra_ca,
            limits=self._limits,
            patience=self._patience,
            opened=opened,
        )

    async def resolve(self, reference: str, *, credentials: Credentials | None = None) -> Resolved:
        wanted = parse_reference(reference)
        digest = self._find_local(wanted)
        if digest is not None:
            return _resolved(digest, self._get_stored(reference, digest))
        try:
            image = await self._fetch_image(wanted, credentials)
        except RegistryUnavailable:
            # Only for who names the repository that this very content came from: whether a caller may see an image
            # is the registry's to say, and by now it has said so once.
            record = self._records.find(wanted.digest) if wanted.digest else None
            stored = self._find_stored(wanted.digest) if record and wanted.name in record.sources else None
            if stored is None:
                raise
            image = stored
        return _resolved(f"{wanted.name}@{image.digest}", image)

    async def find(self, reference: str) -> StoredImage | None:
        wanted = parse_reference(reference)
        return self._find_present(self._find_local(wanted) or wanted.digest)

    async def ensure(
        self,
        reference: str,
        *,
        credentials: Credentials | None = None,
        on_progress: Callable[[PullProgress], None] = lambda _: None,
    ) -> StoredImage:
        wanted = parse_reference(reference)
        digest = self._find_local(wanted)
        present = self._find_present(digest or wanted.digest)
        if present is not None:
            return present
        if digest is not None:
            image = self._get_stored(reference, digest)
            source = None
        else:
            image = await self._fetch_image(wanted, credentials)
            source = wanted
        try:
            async with self._records.pinned(image):
                await reach(IMAGE_PINNED)
                await in_thread(self._keep_metadata, image, source)
                rootfs = await self._ensure_rootfs(reference, image, source, credentials, on_progress)
        except ImageRefused:
            await self._collector.forget(image.digest)
            raise
        except DiskFull:
            # What has arrived would be there for the next try, but the disk needs it more.
            await self._collector.drop_partials(image)
            raise
        return StoredImage(image.digest, rootfs, image.config.image)

    async def import_layout(self, layout: Path, *, name: str | None = None) -> Resolved:
        named = None if name is None else parse_reference(name)
        if named is not None and named.digest:
            raise ImageRefused(str(name), "an image can't be named by a digest.")
        image = await in_thread(layouts.read_layout, layout, self._platform, self._limits)
        async with self._records.pinned(image):
            for layer in image.manifest.layers:
                async with locked(self._blobs.lock_path(layer.digest)):
                    if not self._blobs.has(layer):
                        await in_thread(layouts.take_layer, layout.name, layout, layer, self._blobs)
            await in_thread(self._keep_metadata, image, None)
            await reach(IMAGE_IMPORTED)
            if named is not None:
                await in_thread(self._set_name, str(named), image.digest)
            await reach(IMAGE_NAMED)
        return _resolved(image.digest, image)

    async def export_layout(self, reference: str, directory: Path) -> None:
        wanted = parse_reference(reference)
        digest = self._find_local(wanted)
        image = self._find_stored(digest or wanted.digest)
        if image is None:
            if digest is not None:
                raise ImageNotFound(reference, "this node has no such image")
            image = await self._fetch_image(wanted, None)
        source = wanted if digest is None else None
        tag = wanted.tag or "latest"
        async with self._records.pinned(image):
            await in_thread(self._keep_metadata, image, source)
            for _ in range(_REPAIRS):
                await self._fetch_layers(reference, image, source, None, lambda _: None)
                try:
                    return await in_thread(layouts.write_layout, image, directory, self._blobs, tag=tag)
                except (WrongContent, FileNotFoundError):
                    await in_thread(self._blobs.discard_damaged, image.manifest.layers)
        raise RegistryUnavailable(str(wanted), "its layers are damaged here, again and again. Check the node's disk.")

    async def settle(self) -> None:
        await in_thread(self._unsettled.settle)

    async def get_ahead(self) -> None:
        await self._trees.get_ahead()

    async def collect_garbage(self, keep: Collection[str]) -> int:
        return await self._collector.collect(keep)

    # What is here.

    def _find_local(self, wanted: Reference) -> str | None:
        """The digest, if the reference means an image of this store: by digest alone, or by an imported name."""
        if wanted.is_bare_digest:
            return wanted.digest
        if wanted.digest:
            return None
        return self._records.find_name(str(wanted))

    def _find_stored(self, digest: str) -> Image | None:
        """The image of this digest (or of this index, for our platform) as far as manifest and config go."""
        indexes: list[bytes] = []
        for _ in range(_REPAIRS):
            content = self._blobs.find_small(digest, limit=self._limits.manifest_bytes) if digest else None
            if content is None:
                return None
            try:
                found = parse_manifest(digest, content, "", self._limits)
                if isinstance(found, Index):
                    indexes.append(content)
                    digest = choose_platform(digest, found, self._platform).digest
                    continue
                config_bytes = self._blobs.find_small(found.config.digest, limit=self._limits.config_bytes)
                if config_bytes is None:
                    return None
                config = parse_config(digest, config_bytes, found, self._platform, self._limits)
            except ImageRefused:
                return None  # A layer, say, that somebody takes for an image.
            return Image(digest, found, config, content, config_bytes, tuple(indexes))
        return None

    def _get_stored(self, reference: str, digest: str) -> Image:
        image = self._find_stored(digest)
        if image is None:
            raise ImageNotFound(reference, "this node has no such image")
        return image

    def _find_present(self, digest: str) -> StoredImage | None:
        image = self._find_stored(digest)
        if image is None:
            return None
        if not self._trees.is_usable(image) or not self._records.touch(image.digest):
            return None
        return StoredImage(image.digest, self._trees.path(image), image.config.image)

    def _others(self, image: Image) -> Iterator[Image]:
        """Every other image here that can be read."""
        for record in self._records.all():
            if record.digest != image.digest:
                found = self._find_stored(record.digest)
                if found is not None:
                    yield found

    def _keep_metadata(self, image: Image, source: Reference | None) -> None:
        with _writing:
            self._write_metadata(image, source)

    def _set_name(self, name: str, digest: str) -> None:
        with _writing:
            self._records.set_name(name, digest)

    def _write_metadata(self, image: Image, source: Reference | None) -> None:
        for content in (*image.indexes, image.config_bytes, image.manifest_bytes):
            self._blobs.put_small(content)
        self._records.write(image, source=None if source is None else source.name)

    # What has to come.

    async def _fetch_image(self, wanted: Reference, credentials: Credentials | None) -> Image:
        async with self._registries.session(wanted, credentials) as session:
            image = await fetch_image(session, wanted, self._platform, self._limits, self._blobs)
        await in_thread(self._keep_metadata, image, wanted)
        await reach(IMAGE_RESOLVED)
        return image

    async def _ensure_rootfs(
        self,
        reference: str,
        image: Image,
        source: Reference | None,
        credentials: Credentials | None,
        on_progress: OnProgress,
    ) -> Path:
        rootfs = self._trees.path(image)
        for _ in range(_REPAIRS):
            if self._trees.is_usable(image):
                return rootfs
            await self._fetch_layers(reference, image, source, credentials, on_progress)
            await reach(LAYERS_FETCHED)
            try:
                await self._trees.ensure(reference, image, self._others(image))
            except Damaged:
                await in_thread(self._blobs.discard_damaged, image.manifest.layers)
            else:
                return rootfs
        raise RegistryUnavailable(reference, "its layers are damaged here, again and again. Check the node's disk.")

    async def _fetch_layers(
        self,
        reference: str,
        image: Image,
        source: Reference | None,
        credentials: Credentials | None,
        on_progress: OnProgress,
    ) -> None:
        if all(self._blobs.has(layer) for layer in image.manifest.layers):
            return
        if source is None:
            # Credentials belong to a registry that the caller named; none was.
            credentials = None
            record = self._records.find(image.digest)
            if record is None or not record.sources:
                raise ImageNotFound(reference, "a layer of it is damaged, and it came from no registry. Build it again")
            source = parse_reference(f"{record.sources[0]}@{image.digest}")
        async with self._registries.session(source, credentials) as session:
            await fetch_layers(session, reference, image, self._blobs, self._patience, on_progress)


def _resolved(reference: str, image: Image) -> Resolved:
    return Resolved(reference, image.digest, image.config.image, image.size_bytes)
