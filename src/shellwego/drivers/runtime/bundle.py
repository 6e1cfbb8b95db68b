"""What does a sandbox's folder say about it?

All that is known of a sandbox stands in its folder, in the kernel's control groups and in /proc, and is read from there
each time: an agent that was killed and started again knows as much as one that wasn't.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from shellwego.core.ids import InstanceId
from shellwego.core.instances import ExitReason, ExitStatus
from shellwego.drivers.runtime.cgroups import CGroups
from shellwego.drivers.runtime.monitor import read_exit
from shellwego.drivers.runtime.port import Observed
from shellwego.drivers.runtime.processes import ProcessMark
from shellwego.drivers.runtime.smallfiles import read_small

_UNSEEN = ExitStatus(ExitReason.UNKNOWN, message="ended while nobody watched (the machine restarted, say)")
_INTERRUPTED = ExitStatus(ExitReason.UNKNOWN, message="its start was interrupted")


@dataclass(frozen=True, slots=True)
class Record:
    """Written once the app was started, never changed."""

    first: ProcessMark
    monitor: ProcessMark
    started_at: float
    log_path: Path


@dataclass(frozen=True, slots=True)
class Bundle:
    """The folder of one sandbox."""

    id: InstanceId
    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def pid_file(self) -> Path:
        return self.path / "pid"

    @property
    def monitor_pid_file(self) -> Path:
        return self.path / "monitor.pid"

    @property
    def exit_file(self) -> Path:
        return self.path / self.id  # The monitor names it after the sandbox.

    @property
    def errors(self) -> Path:
        return self.path / "errors"

    @property
    def files(self) -> Path:
        return self.path / "files"

    @property
    def points(self) -> Path:
        return self.path / "points"

    @property
    def rootfs(self) -> Path:
        return self.path / "rootfs"

    @property
    def layer(self) -> Path:
        return self.path / "layer"

    @property
    def out_of_memory(self) -> Path:
        return self.path / "out_of_memory"

    @property
    def record(self) -> Path:
        return self.path / "started.json"

    def make(self) -> None:
        self.path.mkdir(mode=0o700)
        for folder in (self.files, self.rootfs, self.layer):
            folder.mkdir()

    def write_record(self, record: Record) -> None:
        text = json.dumps(
            {
                "first": [record.first.pid, record.first.ticks],
                "monitor": [record.monitor.pid, record.monitor.ticks],
                "started_at": record.started_at,
                "log_path": str(record.log_path),
            }
        )
        new = self.record.with_suffix(".new")
        new.write_text(text)
        new.rename(self.record)  # A tmpfs: what matters is that nobody reads half of it.

    def find_record(self) -> Record | None:
        text = read_small(f"{self.path}/started.json")
        if text is None:
            return None
        said = json.loads(text)
        return Record(
            ProcessMark(*said["first"]), ProcessMark(*said["monitor"]), said["started_at"], Path(said["log_path"])
        )

    def is_started(self) -> bool:
        return self.record.exists()

    def first_process(self) -> ProcessMark | None:
        """The app's first process, or what stands for it, if the app was started and hasn't ended."""
        record = self.find_record()
        if record is None or self.exit_file.exists() or not record.first.is_alive():
            return None
        return record.first

    def is_running(self) -> bool:
        return self.first_process() is not None


def look_at(bundle: Bundle, groups: CGroups) -> Observed | None:
    """The sandbox as it is; None if it was removed meanwhile."""
    record = bundle.find_record()
    if record is None:
        return Observed(bundle.id, running=False, exit=_INTERRUPTED) if bundle.path.exists() else None
    status = read_exit(f"{bundle.path}/{bundle.id}")
    # Between the app's end and the monitor's word about it, the monitor still writes the last lines.
    if status is None and (record.first.is_alive() or record.monitor.is_alive()):
        return Observed(bundle.id, running=True, started_at=record.started_at)
    status = status or read_exit(f"{bundle.path}/{bundle.id}") or _UNSEEN
    died_of_memory = bundle.out_of_memory.exists() or (
        status.reason is not ExitReason.EXITED and groups.out_of_memory_kills(bundle.id) > 0
    )
    if died_of_memory:
        status = ExitStatus(ExitReason.OUT_OF_MEMORY, status.code, "used more memory than it may")
    return Observed(bundle.id, running=False, started_at=record.started_at, exit=status)


def write_secret(path: Path, content: bytes) -> None:
    """On a tmpfs there is nothing to sync; what counts is who may read it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
