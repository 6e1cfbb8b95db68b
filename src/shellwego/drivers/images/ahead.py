"""What will the next image begin with?

With the lower layers of one that came a moment ago, most likely: somebody changed a line. Linking the files of a base
takes longer than unpacking the changed layer, so it is done beforehand, when nothing waits: `unpacking/CHAIN.ahead-x`
is a copy of the tree of these layers, by hard links, which the next image takes by renaming it.

Only this process's memory knows of it. After a kill or a reboot it is garbage like any other half-made tree, and
whoever finds it gone (the collector takes it, too) links for themselves. It is announced as unsettled before it is
made: a disk that fails to keep it until it becomes a part of an image is thus told of (settled.py).
"""

from __future__ import annotations

import contextlib
import secrets
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from shellwego.core.errors import DiskFull
from shellwego.drivers.images.collect import Collector
from shellwego.drivers.images.limits import ImageLimits
from shellwego.drivers.images.locks import locked
from shellwego.drivers.images.removal import remove_path
from shellwego.drivers.images.settled import Unsettled
from shellwego.drivers.images.streams import Refused
from shellwego.drivers.images.threads import in_thread
from shellwego.drivers.images.unpack import Begun, CannotLink, unpack

_MOST = 4
"""Some thousand directories each, and as many bases as a node's developers work on at a time."""
_MARK = ".ahead-"


class Ahead:
    """The trees of one store that were linked ahead, by chain."""

    def __init__(self, directory: Path, unsettled: Unsettled, collector: Collector, limits: ImageLimits) -> None:
        self._rootfs = directory / "rootfs"
        self._unpacking = directory / "unpacking"
        self._unsettled = unsettled
        self._collector = collector
        self._limits = limits
        self._likely: OrderedDict[str, None] = OrderedDict()
        self._ready: dict[str, tuple[Path, Begun]] = {}
        self._swept = False

    def note(self, chain: str) -> None:
        """An image has just been made on the tree of this chain, so another will be."""
        self._likely[chain] = None
        self._likely.move_to_end(chain)
        while len(self._likely) > _MOST:
            self._likely.popitem(last=False)

    def take(self, chain: str, new: Path) -> Begun | None:
        """Have the copy of this tree as `new`, which is announced; None if there is none, or none to be trusted."""
        path, begun = self._ready.pop(chain, (None, None))
        if path is None:
            return None
        # A marker that clean-up took while this was made would have told nobody of what the disk failed to keep.
        is_marked = (self._unsettled.markers / path.name).exists()
        try:
            if is_marked and self._unsettled.is_trusted(path.name):
                path.rename(new)
                return begun
            self._collector.discard(path)
        except FileNotFoundError:
            pass  # Clean-up took it.
        finally:
            self._unsettled.withdraw(path.name)
        return None

    async def make(self, is_usable: Callable[[str], bool]) -> None:
        """Copy what is likely and not ready, and nothing else stays. What can't be copied isn't."""
        if not self._swept:
            for leftover in self._unpacking.glob(f"*{_MARK}*"):
                await self._remove(leftover)  # Of an agent that was here before.
            self._swept = True
        for chain in self._ready.keys() - self._likely.keys():
            await self._remove(self._ready.pop(chain)[0])
        for chain in [*self._likely]:
            if chain not in self._ready or not self._ready[chain][0].exists():
                with contextlib.suppress(DiskFull, Refused, CannotLink):
                    await self._make_one(chain, is_usable)

    async def _make_one(self, chain: str, is_usable: Callable[[str], bool]) -> None:
        # Held by whoever works below `unpacking/CHAIN.*`, so that nobody takes it for garbage.
        async with locked(self._collector.rootfs_lock(chain)) as held:
            if not is_usable(chain):
                self._likely.pop(chain, None)
                return
            path = self._unpacking / f"{chain}{_MARK}{secrets.token_hex(4)}"
            try:
                await in_thread(self._unsettled.announce, path.name)
                begun = await unpack([], path, self._limits, base=self._rootfs / chain, keep_open=(held,))
            except BaseException:
                await self._remove(path)
                raise
        self._ready[chain] = path, begun

    async def _remove(self, path: Path) -> None:
        await in_thread(remove_path, path)
        self._unsettled.withdraw(path.name)
