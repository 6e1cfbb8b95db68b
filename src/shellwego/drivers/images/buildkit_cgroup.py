"""How much may a build use, and how do we end all of it at once?

One control group per build daemon: the daemon, its way out, the client and every step live below it, so its limits
hold for their sum and its list of processes is complete. Version 1 (one hierarchy per controller) and version 2 are
both served; which one a controller uses is read from this process's mounts. `drivers/runtime` has its own groups
for instances: those are per sandbox and outlive us, these are per daemon and don't.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

CONTROLLERS = ("memory", "cpu", "pids", "blkio")
_CPU_PERIOD_MICROSECONDS = 100_000
_IO_WEIGHT = 100
"""Of a default of 500 (version 1) or 100 (version 2, scaled below): a build waits when an app wants the disk too."""


@dataclass(frozen=True, slots=True)
class Hierarchies:
    """
    Where each controller is mounted. `unified` is set when version 2 has the memory controller; `every` has all
    hierarchies, also those that hold none of ours.
    """

    unified: Path | None
    by_controller: dict[str, Path]
    every: tuple[Path, ...] = ()


def read_hierarchies(mountinfo: str) -> Hierarchies:
    """What proc_pid_mountinfo(5) says about control groups. Pure, but for looking at which controllers v2 holds."""
    by_controller: dict[str, Path] = {}
    unified: Path | None = None
    every: set[Path] = set()
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        if kind[0] == "cgroup2":
            unified = Path(fields[4])
            every.add(unified)
        elif kind[0] == "cgroup":
            every.add(Path(fields[4]))
            for name in kind[2].split(","):
                by_controller.setdefault(name, Path(fields[4]))
    return Hierarchies(None if "memory" in by_controller else unified, by_controller, tuple(sorted(every)))


def limit_files(
    *, unified: bool, memory_mib: int, cpu_millis: int, pids: int
) -> tuple[tuple[str, str, str, bool], ...]:
    """(controller, file, value, must succeed) for each limit. Pure."""
    memory = str(memory_mib << 20)
    quota = max(1000, cpu_millis * _CPU_PERIOD_MICROSECONDS // 1000)
    if unified:
        return (
            ("memory", "memory.max", memory, True),
            ("memory", "memory.swap.max", "0", False),
            ("cpu", "cpu.max", f"{quota} {_CPU_PERIOD_MICROSECONDS}", True),
            ("cpu", "cpu.weight", "20", False),
            ("pids", "pids.max", str(pids), True),
            ("io", "io.weight", str(_IO_WEIGHT // 5), False),
        )
    return (
        ("memory", "memory.use_hierarchy", "1", False),
        ("memory", "memory.limit_in_bytes", memory, True),
        ("cpu", "cpu.cfs_period_us", str(_CPU_PERIOD_MICROSECONDS), True),
        ("cpu", "cpu.cfs_quota_us", str(quota), True),
        ("cpu", "cpu.shares", "205", False),
        ("pids", "pids.max", str(pids), True),
        ("blkio", "blkio.weight", str(_IO_WEIGHT), False),
        ("blkio", "blkio.bfq.weight", str(_IO_WEIGHT), False),
    )


class BuildGroup:
    """The control group of one build daemon, at `path` below the root of each hierarchy."""

    def __init__(self, path: PurePosixPath, hierarchies: Hierarchies | None = None) -> None:
        self.path = path
        found = hierarchies or read_hierarchies(Path("/proc/self/mountinfo").read_text())
        self._unified = found.unified
        if found.unified is not None:
            self._roots = {"": found.unified}
        else:
            self._roots = {name: found.by_controller[name] for name in CONTROLLERS if name in found.by_controller}
        # runc makes a group in every hierarchy there is, so clearing up looks at all of them.
        self._every_root = found.every

    def create(self, *, memory_mib: int, cpu_millis: int, pids: int = 4096) -> None:
        """The group exists with these limits; safe to repeat, which changes them. Raises OSError."""
        for root in {*self._roots.values()}:
            self._leaf(root).mkdir(parents=True, exist_ok=True)
            if self._unified is not None:
                self._pass_controllers_down(root)
        for controller, name, value, needed in limit_files(
            unified=self._unified is not None, memory_mib=memory_mib, cpu_millis=cpu_millis, pids=pids
        ):
            at = self._roots.get("" if self._unified is not None else controller)
            if at is None:
                continue
            try:
                (at / self.path / name).write_text(value)
            except OSError:
                if needed:
                    raise

    def member_files(self) -> tuple[Path, ...]:
        """Writing a pid into each of these moves the process into the group."""
        return tuple(self._leaf(root) / "cgroup.procs" for root in sorted({*self._roots.values()}))

    def members(self) -> set[int]:
        """Every process in the group or below it."""
        found: set[int] = set()
        for root in {*self._roots.values()}:
            for directory, _, _ in os.walk(root / self.path):
                with contextlib.suppress(OSError):
                    found.update(int(line) for line in Path(directory, "cgroup.procs").read_text().split())
        return found

    def children(self) -> set[str]:
        """Names of the groups right below."""
        found: set[str] = set()
        for root in self._every_root:
            with contextlib.suppress(OSError):
                found.update(entry.name for entry in (root / self.path).iterdir() if entry.is_dir())
        return found

    def kills_by_memory(self) -> int:
        """How often the kernel has ended a process of the group because memory ran out."""
        total = 0
        if self._unified is not None:
            files = [self._unified / self.path / "memory.events"]
        elif "memory" in self._roots:
            # Version 1 counts at the process's own group only, so the groups below are summed.
            top = self._roots["memory"] / self.path
            files = [Path(directory, "memory.oom_control") for directory, _, _ in os.walk(top)]
        else:
            files = []
        for file in files:
            with contextlib.suppress(OSError):
                for line in file.read_text().splitlines():
                    name, _, value = line.partition(" ")
                    total += int(value) if name == "oom_kill" else 0
        return total

    def kill(self, *, deadline_seconds: float = 60.0) -> bool:
        """
        End every process of the group with SIGKILL, again and again until none is left: one that forks meanwhile is
        caught by the next round. False when some are left at the deadline, which leaves the kernel time to bring to a
        slow disk what they wrote. Blocks: call it in a thread.
        """
        end = time.monotonic() + deadline_seconds
        while members := self.members():
            for pid in members:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
        return True

    def remove(self) -> None:
        """The group is gone from every hierarchy. Raises OSError while processes are left in it."""
        for root in self._every_root:
            top = root / self.path
            for directory, _, _ in os.walk(top, topdown=False):
                _remove_group(Path(directory))

    def remove_empty_parents(self) -> None:
        """Take away the groups above ours that nobody uses, up to and with the one named `shellwego`."""
        for root in self._every_root:
            for parent in list(self.path.parents)[:-1]:
                with contextlib.suppress(OSError):
                    (root / parent).rmdir()

    def _leaf(self, root: Path) -> Path:
        # Version 2 forbids processes in a group that hands controllers on to groups below it.
        return root / self.path / "daemon"

    def _pass_controllers_down(self, root: Path) -> None:
        at = root
        for part in ("", *self.path.parts):
            at = at / part
            for controller in ("memory", "cpu", "pids", "io"):
                with contextlib.suppress(OSError):  # Limits that must hold fail later, when they are written.
                    (at / "cgroup.subtree_control").write_text(f"+{controller}")


def _remove_group(directory: Path) -> None:
    # A group stays busy for a moment after its last process was reaped.
    end = time.monotonic() + 2.0
    while True:
        try:
            directory.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)
        else:
            return
