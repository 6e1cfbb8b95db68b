"""What may go from the store, and how does it go without hurting a pull that runs meanwhile?

Marking happens while nobody can start a pull (the `collecting` lock, held for milliseconds): what is dead then is
renamed into `trash/`, which takes it out of everybody's sight at once. Only then are the bytes removed, at leisure;
a crash in between leaves trash for the next collection. Nothing outside the store's own directory is ever touched.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from shellwego.core.errors import ImageRefused
from shellwego.drivers.images.blobs import BlobStore
from shellwego.drivers.images.limits import ImageLimits
from shellwego.drivers.images.locks import locked, try_lock, unlock
from shellwego.drivers.images.manifest import Index, parse_manifest
from shellwego.drivers.images.records import Image, Needs, Records
from shellwego.drivers.images.removal import remove_tree
from shellwego.drivers.images.settled import Unsettled
from shellwego.drivers.images.threads import in_thread
from shellwego.kit.faults import fault_point, reach

GARBAGE_MARKED = fault_point("images.garbage.marked")
GARBAGE_TRASHED = fault_point("images.garbage.trashed")

_PARTIAL_SECONDS = 3600.0
"""How long a pull that failed may take to come back for what it has; nothing unfinished is written to for longer."""


class Collector:
    """Removes what nobody needs from one store directory."""

    def __init__(
        self,
        directory: Path,
        blobs: BlobStore,
        records: Records,
        unsettled: Unsettled,
        limits: ImageLimits,
        *,
        grace_seconds: float,
    ) -> None:
        self._rootfs = directory / "rootfs"
        self._unpacking = directory / "unpacking"
        self._trash = directory / "trash"
        self._blobs = blobs
        self._records = records
        self._unsettled = unsettled
        self._limits = limits
        self._grace_seconds = grace_seconds

    async def collect(self, keep: Collection[str]) -> int:
        """Remove all that neither `keep`, nor a name, nor a running pull, nor a recently used image needs."""
        async with locked(self._records.collecting, keep_file=True):
            needs, images = await in_thread(self._mark, frozenset(keep))
            await reach(GARBAGE_MARKED)
            await in_thread(self._sweep, needs, images)
        await reach(GARBAGE_TRASHED)
        return await in_thread(self._empty_trash)

    async def forget(self, digest: str) -> None:
        """Remove one image that was refused, as far as no other image, name or pull needs its parts."""
        async with locked(self._records.collecting, keep_file=True):
            await in_thread(self._forget, digest)
        await in_thread(self._empty_trash)

    async def drop_partials(self, image: Image) -> None:
        """Give up what has arrived of the image's layers, except where another pull goes on with it."""
        for layer in image.manifest.layers:
            self._drop_partial(layer.digest)
        await in_thread(self._empty_trash)

    def _mark(self, keep: frozenset[str]) -> tuple[Needs, frozenset[str]]:
        """What is needed, and the images whose records stay."""
        needs = self._records.pinned_needs()
        # A caller may hold `name@sha256:...`, as Resolved.reference has it.
        images = {digest.rpartition("@")[2] for digest in keep} | self._records.named_digests()
        for record in self._records.all():
            if record.seconds_old < self._grace_seconds or record.digest in needs.blobs:
                images.add(record.digest)
        for digest in list(images):
            images |= self._children(digest)
        for digest in images:
            known = self._records.find(digest)
            needs |= Needs(frozenset((digest,))) if known is None else known.needs
        return needs, frozenset(images)

    def _children(self, digest: str) -> frozenset[str]:
        """An index stands for the images in it."""
        content = self._blobs.find_small(digest, limit=self._limits.manifest_bytes)
        if content is None:
            return frozenset()
        with contextlib.suppress(ImageRefused):
            found = parse_manifest(digest, content, "", self._limits)
            if isinstance(found, Index):
                return frozenset(entry.digest for entry in found.manifests)
        return frozenset()

    def _sweep(self, needs: Needs, images: frozenset[str]) -> None:
        for record in list(self._records.all()):
            if record.digest not in images:
                self._records.forget(record.digest)
        for blob in self._blobs.blobs.iterdir():
            if not blob.name.startswith(".") and f"sha256:{blob.name}" not in needs.blobs:
                self.discard(blob)
        for directory in (self._blobs.blobs, self._records.images, self._records.names, self._unsettled.markers):
            for unfinished in directory.glob(".*"):
                self._discard_old(unfinished)  # What replace_file leaves when it is killed.
        for rootfs in self._rootfs.iterdir():
            if rootfs.name not in needs.chains:
                self.discard(rootfs)
        for unpacking in self._unpacking.iterdir():
            with self._unlocked(self.rootfs_lock(unpacking.name.partition(".")[0])) as is_free:
                if is_free:
                    self.discard(unpacking)
        for marker in self._unsettled.markers.glob("[!.]*"):
            with self._unlocked(self.rootfs_lock(marker.name)) as is_free:
                if is_free and not (self._rootfs / marker.name).exists():
                    self.discard(marker)
        for partial in self._blobs.partial.iterdir():
            self._sweep_partial(partial)

    def _sweep_partial(self, partial: Path) -> None:
        digest = f"sha256:{partial.name.partition('.')[0]}"
        with self._unlocked(self._blobs.lock_path(digest)) as is_free:
            if not is_free:
                return
            if partial.suffix == ".new" or self._blobs.path(digest).exists():
                self.discard(partial)
            else:
                self._discard_old(partial)

    def _forget(self, digest: str) -> None:
        record = self._records.find(digest)
        if record is None or digest in self._records.named_digests():
            return
        others = self._records.pinned_needs()
        for other in self._records.all():
            if other.digest != digest:
                others |= other.needs
        self._records.forget(digest)
        for blob in record.needs.blobs - others.blobs:
            self.discard(self._blobs.path(blob))
            self._drop_partial(blob)
        for chain in record.needs.chains - others.chains:
            self.discard(self._rootfs / chain)

    def _drop_partial(self, digest: str) -> None:
        with self._unlocked(self._blobs.lock_path(digest)) as is_free:
            if is_free:
                self.discard(self._blobs.partial / digest.removeprefix("sha256:"))

    def rootfs_lock(self, chain: str) -> Path:
        return self._blobs.locks / f"rootfs-{chain}"

    @contextlib.contextmanager
    def _unlocked(self, path: Path) -> Iterator[bool]:
        """Whether nobody holds the lock; while the block runs, nobody can get it."""
        descriptor = try_lock(path)
        try:
            yield descriptor is not None
        finally:
            if descriptor is not None:
                unlock(descriptor, path)

    def _discard_old(self, path: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _PARTIAL_SECONDS:
                self.discard(path)

    def discard(self, path: Path, *, in_use: bool = False) -> None:
        """
        Out of everybody's sight at once; its bytes go when the trash is emptied. What may be in use stays in the trash
        until the file system has been mounted anew.
        """
        until = f".{self._unsettled.life}" if in_use else ""
        with contextlib.suppress(FileNotFoundError):
            path.rename(self._trash / f"{path.name}.{secrets.token_hex(4)}{until}")

    def _empty_trash(self) -> int:
        freed = 0
        trash = os.open(self._trash, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for entry in os.listdir(trash):  # noqa: PTH208  a descriptor, not a path
                if entry.endswith(f".{self._unsettled.life}"):
                    continue
                freed += _allocated(trash, entry)
                # Another process may be emptying it, too.
                with contextlib.suppress(FileNotFoundError):
                    remove_tree(trash, entry)
        finally:
            os.close(trash)
        return freed


def _allocated(directory: int, name: str) -> int:
    """Bytes on disk that go when the last name below goes. A file that a layout still shares frees nothing."""
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return 0
    total = found.st_blocks * 512 if found.st_nlink == 1 or stat.S_ISDIR(found.st_mode) else 0
    try:
        for _, directories, files, inside in os.fwalk(name, dir_fd=directory, follow_symlinks=False):
            seen: dict[int, int] = {}
            for entry in (*directories, *files):
                with contextlib.suppress(FileNotFoundError):
                    inner = os.stat(entry, dir_fd=inside, follow_symlinks=False)
                    seen[inner.st_ino] = inner.st_blocks * 512
            total += sum(seen.values())
    except (FileNotFoundError, NotADirectoryError):
        pass
    return total
