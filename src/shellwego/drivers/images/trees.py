"""How do an image's layers become the directory `rootfs/CHAIN`, without unpacking again what is unpacked already?

A tree belongs to a list of layers. Beside the whole image's tree, the tree of *all layers but the last* is left, and
that of the layers that another image here has too: of the next release usually the last layer alone is new, and of the
next app the base is not. A new tree begins as hard links to the longest one that it contains; nothing ever writes to a
file of a tree (extract.py replaces, instances see it read-only), so the files may be shared.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path

from shellwego.core.errors import ImageRefused
from shellwego.drivers.images.ahead import Ahead
from shellwego.drivers.images.blobs import BlobStore
from shellwego.drivers.images.collect import Collector
from shellwego.drivers.images.limits import ImageLimits
from shellwego.drivers.images.locks import locked
from shellwego.drivers.images.manifest import LAYER_TYPES
from shellwego.drivers.images.records import Image
from shellwego.drivers.images.removal import remove_path
from shellwego.drivers.images.settled import Unsettled
from shellwego.drivers.images.streams import Refused
from shellwego.drivers.images.threads import in_thread
from shellwego.drivers.images.unpack import CannotLink, PackedLayer, unpack
from shellwego.kit.faults import fault_point, reach

ROOTFS_UNPACKED = fault_point("images.unpack.unpacked")
ROOTFS_NAMED = fault_point("images.unpack.named")

_UNPACKERS = 2
"""At once: a node that starts fifty apps has other work for its cores, too."""


class Trees:
    """The unpacked images of one store directory. Whoever makes one holds a pin for its image (records.py)."""

    def __init__(
        self, directory: Path, blobs: BlobStore, unsettled: Unsettled, collector: Collector, limits: ImageLimits
    ) -> None:
        self._rootfs = directory / "rootfs"
        self._unpacking = directory / "unpacking"
        self._blobs = blobs
        self._unsettled = unsettled
        self._collector = collector
        self._limits = limits
        self._ahead = Ahead(directory, unsettled, collector, limits)
        self._unpackers = asyncio.Semaphore(_UNPACKERS)

    def path(self, image: Image) -> Path:
        return self._rootfs / image.config.chain

    def is_usable(self, image: Image) -> bool:
        return self._is_usable(image.config.chain)

    async def get_ahead(self) -> None:
        """Do beforehand what the next images will need (ahead.py)."""
        async with self._unpackers:
            await self._ahead.make(self._is_usable)

    async def ensure(self, reference: str, image: Image, others: Iterable[Image]) -> None:
        """
        Unpack what is missing of the image. `others` are looked at for layers in common, if that can help.

        Raises ImageRefused, Damaged for a blob, DiskFull.
        """
        layers = [
            PackedLayer(str(self._blobs.path(layer.digest)), layer.digest, diff_id, LAYER_TYPES[layer.media_type])
            for layer, diff_id in zip(image.manifest.layers, image.config.diff_ids, strict=True)
        ]
        chains = image.config.chains
        if len(layers) > 1:
            below = chains[: len(layers)]
            if not self._is_usable(below[-1]):
                in_common = await in_thread(_longest_in_common, below, others)
                for count in sorted({in_common, len(layers) - 1} - {0}):
                    await self._ensure_one(reference, layers[:count], chains[: count + 1])
        await self._ensure_one(reference, layers, chains)
        if len(layers) > 1:
            self._ahead.note(chains[-2])

    def _is_usable(self, chain: str) -> bool:
        return (self._rootfs / chain).is_dir() and self._unsettled.is_trusted(chain)

    async def _ensure_one(self, reference: str, layers: Sequence[PackedLayer], chains: Sequence[str]) -> None:
        """The tree of these layers; `chains[n]` names that of the first n."""
        chain = chains[-1]
        final = self._rootfs / chain
        async with locked(self._collector.rootfs_lock(chain)) as held:
            if self._is_usable(chain):
                return
            # From before a power cut, if it is there at all, or one that the disk may not have kept.
            self._collector.discard(final, in_use=self._unsettled.may_be_in_use(chain))
            for leftover in self._unpacking.glob(f"{chain}.*"):
                await in_thread(remove_path, leftover)
            new = self._unpacking / f"{chain}.{secrets.token_hex(4)}"
            try:
                await in_thread(self._unsettled.announce, chain)
                # The pin keeps the collector away from all of them.
                base = next((n for n in range(len(layers) - 1, 0, -1) if self._is_usable(chains[n])), 0)
                async with self._unpackers:
                    await self._unpack(layers, new, base, chains, held)
                await reach(ROOTFS_UNPACKED)
                new.rename(final)
            except Refused as error:
                raise ImageRefused(reference, str(error)) from error
            finally:
                if new.exists():
                    await in_thread(remove_path, new)
                if not final.exists():
                    self._unsettled.withdraw(chain)
        await reach(ROOTFS_NAMED)

    async def _unpack(
        self, layers: Sequence[PackedLayer], new: Path, base: int, chains: Sequence[str], held: int
    ) -> None:
        if base:
            begun = self._ahead.take(chains[base], new)
            try:
                tree = None if begun else self._rootfs / chains[base]
                await unpack(layers[base:], new, self._limits, base=tree, begun=begun, keep_open=(held,))
            except CannotLink:
                # A file has as many names as its file system allows, or that knows none but the first.
                await in_thread(remove_path, new)
            else:
                return
        await unpack(layers, new, self._limits, keep_open=(held,))


def _longest_in_common(chains: Sequence[str], others: Iterable[Image]) -> int:
    """How many layers the image of these chains shares with the one of the others that is most alike."""
    known = {chain: count for count, chain in enumerate(chains) if count}
    return max((known.get(chain, 0) for other in others for chain in other.config.chains[1:]), default=0)
