"""Which unpacked images would still be whole if their file system were mounted anew?

Forcing thousands of fresh files to disk costs seconds on a node that builds, and a deploy would wait for it (syncfs(2)
writes everybody's data, not only ours). A killed process loses nothing that the kernel holds; only the end of a mount
does: a power cut, or a disk that failed and was checked and mounted again. So an image is used as soon as it is
unpacked, and a marker, on disk before the first of its files, says in which life of the file system that was. When the
kernel has written most of it by itself, `settle` syncs and takes the marker away; an image with a marker of another
life is unpacked anew. docs/decisions/0016 says why only who unpacked an image may settle it, and only once.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path

from shellwego.drivers.images.blobs import disk_full_as_error
from shellwego.drivers.images.confine import sync_file_system
from shellwego.drivers.images.locks import try_lock, unlock
from shellwego.kit.disks import life_of_mount
from shellwego.kit.files import replace_file

SETTLE_AFTER_SECONDS = 35.0
"""The kernel writes what is older than 30 s (vm.dirty_expire_centisecs): an earlier sync would hold up commits."""
_DOUBTED = b"doubted"


class Unsettled:
    """The markers of one store: `unsettled/CHAIN`, with the life of the file system in it."""

    def __init__(
        self,
        directory: Path,
        *,
        life: str | None = None,
        sync: Callable[[int], None] = sync_file_system,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.markers = directory / "unsettled"
        self.life = life or life_of_mount(directory)
        self._rootfs = directory / "rootfs"
        self._locks = directory / "locks"
        self._sync, self._clock = sync, clock
        self._guard = threading.Lock()
        self._ours: dict[str, tuple[bytes, float]] = {}
        """What this process unpacked: the marker's content, and when it was last seen to be incomplete."""
        self._doubted: set[str] = set()
        self._before_all: _Directory | None = None
        """Opened before the first of them was written, and so told of each write that failed since."""

    def announce(self, chain: str) -> None:
        """Say, durably, that the image is about to be unpacked. Raises DiskFull."""
        marker = f"{self.life} {secrets.token_hex(8)}".encode()  # No other marker, of any process, is mistaken for it.
        with disk_full_as_error("unpacking an image"):
            replace_file(self.markers / chain, marker)
        with self._guard:
            if self._before_all is None:
                self._before_all = _Directory(self._rootfs)
            self._ours[chain] = marker, self._clock()
            self._doubted.discard(chain)

    def withdraw(self, chain: str) -> None:
        """Nothing was unpacked after all."""
        with self._guard:
            self._ours.pop(chain, None)
            self._doubted.discard(chain)
        (self.markers / chain).unlink(missing_ok=True)

    def is_trusted(self, chain: str) -> bool:
        """Whether what lies under this name is what was unpacked."""
        marker = self._read(chain)
        if marker is None:
            return True
        life, _, word = marker.partition(b" ")
        return life == self.life.encode() and word != _DOUBTED and chain not in self._doubted

    def may_be_in_use(self, chain: str) -> bool:
        """Whether an instance may stand on a tree that isn't trusted: never on one from before the last mount."""
        return (self._read(chain) or b"").partition(b" ")[0] == self.life.encode()

    def settle(self) -> None:
        """
        Bring to disk what this process unpacked a while ago. Takes as long as the disk needs: for a thread.

        Raises OSError when the disk didn't keep it; those images are then unpacked again when somebody needs them.
        """
        if self._before_all is None:
            return
        # Only what was complete before the sync: of an unpacking that goes on meanwhile, half would be missing.
        complete = self._complete()
        if complete:
            try:
                self._sync(self._before_all.descriptor)
            except OSError:
                self._doubt_all()
                raise
        for chain, marker in complete.items():
            self._take_away(chain, marker)
        with self._guard:
            if not self._ours:
                self._before_all = None

    def _complete(self) -> dict[str, bytes]:
        now, complete = self._clock(), {}
        with self._guard:
            for chain, (marker, since) in list(self._ours.items()):
                if self._read(chain) != marker:
                    del self._ours[chain]  # Collected meanwhile.
                elif not (self._rootfs / chain).is_dir():
                    self._ours[chain] = marker, now
                elif now - since >= SETTLE_AFTER_SECONDS:
                    complete[chain] = marker
        return complete

    def _take_away(self, chain: str, marker: bytes) -> None:
        path = self._locks / f"rootfs-{chain}"
        lock = try_lock(path)
        if lock is None:
            return  # Somebody is at this tree; the next round is soon enough.
        try:
            if self._read(chain) == marker:
                self.withdraw(chain)
        finally:
            unlock(lock, path)

    def _doubt_all(self) -> None:
        """Which file wasn't written nobody says, and the next sync would succeed: the kernel tells of it once."""
        with self._guard:
            doubted = frozenset(self._ours)
            self._doubted |= doubted
            self._ours.clear()
            self._before_all = None
        for chain in doubted:
            with contextlib.suppress(OSError):  # Then it counts for this process; no other one settles it either.
                replace_file(self.markers / chain, self.life.encode() + b" " + _DOUBTED)

    def _read(self, chain: str) -> bytes | None:
        try:
            return (self.markers / chain).read_bytes()
        except FileNotFoundError:
            return None


class _Directory:
    """An open one, closed when nobody refers to it any more: it would keep its file system from being unmounted."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def __del__(self) -> None:
        os.close(self.descriptor)
