"""Where does a runtime keep its sandboxes?

`base` is a tmpfs of our own: a folder for each sandbox (bundle.py), with its secrets, and what the runtime remembers.
`layers` is on disk, for what apps write.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from shellwego.core.errors import EngineMissing
from shellwego.core.ids import InstanceId, is_id
from shellwego.drivers.runtime import mounts
from shellwego.drivers.runtime.bundle import Bundle

_TMPFS_MIB = 256


@dataclass(frozen=True, slots=True)
class Places:
    """The folders of one runtime of one cloud."""

    base: Path
    layers: Path

    @property
    def state(self) -> Path:
        return self.base / "state"

    @property
    def sandboxes(self) -> Path:
        return self.base / "sandboxes"

    def bundle(self, id: InstanceId) -> Bundle:
        # Beside keeping names sound: runsc finds containers by prefix, so all ids must be of one length.
        if not is_id(id, "instance"):
            raise ValueError(f"{id!r} is not an instance's id")
        return Bundle(id, self.sandboxes / id)

    def bundles(self) -> list[Bundle]:
        """Those of every sandbox there is."""
        base = self.sandboxes
        try:
            names = sorted(entry.name for entry in os.scandir(base))
        except FileNotFoundError:
            return []
        return [Bundle(InstanceId(name), base / name) for name in names if is_id(name, "instance")]

    def layer_file(self, id: InstanceId) -> Path:
        return self.layers / f"{id}.ext4"

    def ensure(self) -> None:
        """Make what is missing. Raises EngineMissing where no tmpfs can be mounted."""
        if not mounts.is_mounted(self.base):
            try:
                mounts.mount_tmpfs(self.base, size_mib=_TMPFS_MIB)
            except OSError as error:
                raise EngineMissing("kernel", f"a tmpfs can't be mounted at {self.base}: {error.strerror}.") from error
            # A new tmpfs means a new life of the machine: no layer of the last one is in use.
            shutil.rmtree(self.layers, ignore_errors=True)
        for folder in (self.sandboxes, self.state, self.layers):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def remove(self) -> None:
        """Take all of it away, once no sandbox is left. Safe to repeat."""
        if self.base.exists():
            mounts.unmount(self.base)
            shutil.rmtree(self.base)
        shutil.rmtree(self.layers, ignore_errors=True)
