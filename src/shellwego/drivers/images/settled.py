"""Which unpacked images would a power cut have left whole?

Forcing thousands of fresh files to disk costs seconds on a node that builds, and a deploy would wait for it (syncfs(2)
writes everybody's data, not only ours). A killed process loses nothing that the kernel holds; only a reboot does. So
an image is used as soon as it is unpacked, and a marker, on disk before the first of its files, says during which boot
that was. The next collection syncs and takes the marker away; an image with a marker of another boot is unpacked anew.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from shellwego.drivers.images.blobs import disk_full_as_error
from shellwego.drivers.images.confine import sync_file_system
from shellwego.kit.files import replace_file

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Unsettled:
    """The markers of one store: `unsettled/CHAIN`, with the id of the boot in it."""

    def __init__(self, directory: Path, *, boot_id: str | None = None) -> None:
        self.markers = directory / "unsettled"
        self._rootfs = directory / "rootfs"
        self._boot_id = (boot_id or _BOOT_ID.read_text().strip()).encode()

    def announce(self, chain: str) -> None:
        """Say, durably, that the image is about to be unpacked. Raises DiskFull."""
        with disk_full_as_error("unpacking an image"):
            replace_file(self.markers / chain, self._boot_id)

    def withdraw(self, chain: str) -> None:
        """Nothing was unpacked after all."""
        (self.markers / chain).unlink(missing_ok=True)

    def is_trusted(self, chain: str) -> bool:
        """Whether what lies under this name is what was unpacked."""
        try:
            return (self.markers / chain).read_bytes() == self._boot_id
        except FileNotFoundError:
            return True

    def settle(self) -> None:
        """Bring what was unpacked during this boot to disk. Takes as long as the disk needs: for a thread."""
        # Only what was complete before the sync: of an unpacking that goes on meanwhile, half would be missing.
        complete = {
            marker.name: marker.stat().st_ino
            for marker in self.markers.iterdir()
            if self.is_trusted(marker.name) and (self._rootfs / marker.name).is_dir()
        }
        if not complete:
            return
        rootfs = os.open(self._rootfs, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            sync_file_system(rootfs)
        finally:
            os.close(rootfs)
        for chain, inode in complete.items():
            with contextlib.suppress(FileNotFoundError):
                if (self.markers / chain).stat().st_ino == inode:  # Not unpacked anew since.
                    self.withdraw(chain)
