"""Did a sandbox run out of memory, and who is in it?

The runtimes create the groups (`/PREFIX/ID`) and set their limits; we read counters straight from the kernel's files,
which is what makes looking at a hundred sandboxes cheap, and we end and remove what is in them. Version 1 and 2 of the
kernel's interface are two classes of one shape; everybody else is spared the difference.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Protocol

from shellwego.drivers.runtime.smallfiles import read_small

SYSTEM = Path("/sys/fs/cgroup")
_V1_CONTROLLERS = frozenset({"cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "systemd"})
_V1_OTHERS = frozenset({"net_cls", "net_prio", "perf_event", "hugetlb", "rdma", "misc", "unified"})
_PERIOD_MICROSECONDS = 100_000


class CGroups(Protocol):
    """The groups below one prefix. What isn't there reads as 0 and is removed already."""

    def raise_memory(self, name: str, limit_bytes: int) -> None: ...
    def watch_out_of_memory(self, name: str) -> int | None:
        """A descriptor that can be read when the group runs out of memory; None where the kernel ends it itself."""
        ...

    def out_of_memory_kills(self, name: str) -> int: ...
    def pids(self, name: str) -> set[int]: ...
    def join(self, name: str, pid: int) -> None: ...
    def limit_cpu(self, name: str, pid: int, cpu_millis: int) -> None:
        """Put the process into a group that gets at most so much CPU. Of version 1, the other groups stay its own."""
        ...

    def kill(self, name: str) -> set[int]:
        """SIGKILL everything that is in it now; the pids that were."""
        ...

    def remove(self, name: str) -> bool:
        """Whether the group is gone. It can't be while something in it still ends."""
        ...


def find_cgroups(prefix: str, *, system: Path = SYSTEM) -> CGroups:
    """The interface that this machine has."""
    if (system / "cgroup.controllers").exists():
        return CGroupsV2(system / prefix)
    hierarchies = [
        path / prefix
        for path in sorted(system.iterdir())
        if path.is_dir() and not path.is_symlink() and path.name.partition(",")[0] in _V1_CONTROLLERS | _V1_OTHERS
    ]
    return CGroupsV1({name: path for path in hierarchies for name in path.relative_to(system).parts[0].split(",")})


class CGroupsV2:
    """One tree for all controllers."""

    def __init__(self, base: Path) -> None:
        self._base = base

    def raise_memory(self, name: str, limit_bytes: int) -> None:
        (self._base / name / "memory.max").write_text(str(limit_bytes))
        # The kernel then ends a sandbox as a whole: half of one can hang for ever.
        (self._base / name / "memory.oom.group").write_text("1")

    def watch_out_of_memory(self, name: str) -> int | None:
        return None

    def out_of_memory_kills(self, name: str) -> int:
        return _counter(f"{self._base}/{name}/memory.events", "oom_kill")

    def pids(self, name: str) -> set[int]:
        return _pids(self._base / name)

    def join(self, name: str, pid: int) -> None:
        _join(self._base / name, pid)

    def limit_cpu(self, name: str, pid: int, cpu_millis: int) -> None:
        group = self._base / name
        group.mkdir(parents=True, exist_ok=True)
        # From the top, since a group can pass on only what it was given. The runtimes do this for their groups alone.
        for parent in reversed(group.parents):
            if (parent / "cgroup.subtree_control").exists():
                (parent / "cgroup.subtree_control").write_text("+cpu")
        period = _PERIOD_MICROSECONDS
        (group / "cpu.max").write_text(f"{cpu_millis * period // 1000} {period}")
        _join(group, pid)

    def kill(self, name: str) -> set[int]:
        found = self.pids(name)
        try:
            (self._base / name / "cgroup.kill").write_text("1")  # Since Linux 5.14, and atomic.
        except OSError:
            _kill(found)
        return found

    def remove(self, name: str) -> bool:
        return _remove(self._base / name)


class CGroupsV1:
    """A tree per controller; the runtimes make the same path in each."""

    def __init__(self, bases: dict[str, Path]) -> None:
        self._bases = bases

    def raise_memory(self, name: str, limit_bytes: int) -> None:
        group = self._bases["memory"] / name
        swap = group / "memory.memsw.limit_in_bytes"
        if swap.exists():  # Never below the limit without swap, so it goes up first.
            swap.write_text(str(limit_bytes))
        (group / "memory.limit_in_bytes").write_text(str(limit_bytes))

    def watch_out_of_memory(self, name: str) -> int | None:
        group = self._bases["memory"] / name
        try:
            control = os.open(group / "memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            try:
                (group / "cgroup.event_control").write_text(f"{event} {control}")
            except OSError:
                os.close(event)
                return None
            return event
        finally:
            os.close(control)

    def out_of_memory_kills(self, name: str) -> int:
        return _counter(f"{self._bases['memory']}/{name}/memory.oom_control", "oom_kill")

    def pids(self, name: str) -> set[int]:
        return _pids(self._bases["pids"] / name) | _pids(self._bases["memory"] / name)

    def join(self, name: str, pid: int) -> None:
        for controller, base in self._bases.items():
            # A cpuset without CPUs takes nobody, and holds no limit of ours.
            if controller != "cpuset":
                _join(base / name, pid)

    def limit_cpu(self, name: str, pid: int, cpu_millis: int) -> None:
        if "cpu" not in self._bases:
            return
        group = self._bases["cpu"] / name
        group.mkdir(parents=True, exist_ok=True)
        (group / "cpu.cfs_period_us").write_text(str(_PERIOD_MICROSECONDS))
        (group / "cpu.cfs_quota_us").write_text(str(cpu_millis * _PERIOD_MICROSECONDS // 1000))
        _join(group, pid)

    def kill(self, name: str) -> set[int]:
        # First nobody may be born any more, or a fork bomb outruns us.
        with contextlib.suppress(OSError):
            (self._bases["pids"] / name / "pids.max").write_text("0")
        found = self.pids(name)
        _kill(found)
        return found

    def remove(self, name: str) -> bool:
        left = [base for base in self._bases.values() if not _remove(base / name)]
        return not left


def _counter(path: str, name: str) -> int:
    text = read_small(path) or b""
    for line in text.splitlines():
        key, _, value = line.partition(b" ")
        if key == name.encode():
            return int(value)
    return 0


def _pids(group: Path) -> set[int]:
    try:
        return {int(word) for word in (group / "cgroup.procs").read_text().split()} - {0}
    except OSError:
        return set()


def _join(group: Path, pid: int) -> None:
    group.mkdir(parents=True, exist_ok=True)
    (group / "cgroup.procs").write_text(str(pid))


def _kill(pids: set[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _remove(group: Path) -> bool:
    """Remove a group and the groups that its own processes may have made in it."""
    try:
        for child in group.iterdir():
            if child.is_dir():
                _remove(child)
        group.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
