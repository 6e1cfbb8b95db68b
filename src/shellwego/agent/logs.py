"""Where is the log of an instance, and how does it stay bounded?

`ROOT/<app>/<instance>/current` is written by whoever runs the sandbox, in the CRI format, also while no agent lives.
Here a file that grew too large is renamed to the next number and the writer told to open a new one; old files go
by age, within an instance, an app, and the node. The log of an instance outlives it, because "why did it end?" is
asked after the end. `log_reader.py` reads what lies here.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import structlog

from shellwego.core.errors import ShellWeGoError
from shellwego.core.ids import InstanceId, is_id
from shellwego.kit.faults import fault_point, reach

log = structlog.get_logger()

LOG_RENAMED = fault_point("agent.log.renamed")
LOG_REOPENED = fault_point("agent.log.reopened")

CURRENT = "current"
_QUIET_SECONDS, _QUIET_BYTES = 5.0, 1 << 20


@dataclass(frozen=True, slots=True)
class LogLimits:
    """Bytes and counts. A flooder can pass them for a second, until the next look."""

    file_bytes: int = 10 << 20
    files_per_instance: int = 5
    app_bytes: int = 200 << 20
    node_bytes: int = 2 << 30
    gone_per_app: int = 20
    """Instances that are gone and whose logs are kept, newest first."""


@dataclass(frozen=True, slots=True)
class LogFile:
    """One file as it was seen. `number` is None for `current`, which is the newest."""

    path: Path
    app: str
    instance: str
    number: int | None
    size_bytes: int
    changed_at: float


def plan_prune(files: Iterable[LogFile], live: Collection[str], limits: LogLimits) -> tuple[Path, ...]:
    """Which files must go, oldest first. The file that a live instance writes to never does."""
    doomed: dict[Path, None] = {}
    kept = sorted(files, key=lambda file: (file.changed_at, file.number if file.number is not None else 1 << 62))

    def drop(file: LogFile) -> None:
        doomed[file.path] = None
        kept.remove(file)

    def expendable(among: list[LogFile]) -> list[LogFile]:
        return [file for file in among if file.number is not None or file.instance not in live]

    def shrink(among: list[LogFile], limit_bytes: int) -> None:
        excess = sum(file.size_bytes for file in among) - limit_bytes
        for file in expendable(among):
            if excess <= 0:
                return
            excess -= file.size_bytes
            drop(file)

    for instance in {file.instance for file in kept}:
        rotated = [file for file in kept if file.instance == instance and file.number is not None]
        for file in rotated[: max(0, len(rotated) - (limits.files_per_instance - 1))]:
            drop(file)
    for app in {file.app for file in kept}:
        newest: dict[str, float] = {}
        for file in kept:
            if file.app == app and file.instance not in live:
                newest[file.instance] = max(file.changed_at, newest.get(file.instance, 0.0))
        forgotten = sorted(newest, key=lambda instance: newest[instance])[: max(0, len(newest) - limits.gone_per_app)]
        for file in [file for file in kept if file.instance in forgotten]:
            drop(file)
        shrink([file for file in kept if file.app == app], limits.app_bytes)
    shrink(list(kept), limits.node_bytes)
    return tuple(doomed)


class LogStore:
    """The logs of one node."""

    def __init__(self, root: Path, limits: LogLimits | None = None) -> None:
        self._root = root
        self._limits = limits or LogLimits()
        self._looks: dict[InstanceId, tuple[float, int]] = {}
        root.mkdir(parents=True, exist_ok=True, mode=0o700)

    def path_for(self, app: str, id: InstanceId) -> Path:
        """Where the instance's sandbox shall write; its directory exists when this returns."""
        directory = self._root / (app if is_id(app, "app") else "other") / id
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        return directory / CURRENT

    def find_directory(self, id: str) -> Path | None:
        """Where the instance's log lies, if it ever had one."""
        if not is_id(id, "instance"):  # It comes from outside and becomes a path.
            return None
        return next((path for path in self._root.glob(f"*/{id}") if path.is_dir()), None)

    async def rotate(
        self, live: Collection[tuple[str, InstanceId]], reopen: Callable[[InstanceId], Awaitable[None]]
    ) -> int:
        """
        Rename what grew too large and have its writer begin anew. `live` are the running instances with their apps.
        How many were rotated. A rename whose writer was never told, because we were killed between, is mended here.
        """
        rotated = 0
        now = time.monotonic()
        for app, id in live:
            due, size_before = self._looks.get(id, (0.0, 0))
            if now < due:
                continue
            current = self._root / (app if is_id(app, "app") else "other") / id / CURRENT
            try:
                size = current.stat().st_size
            except FileNotFoundError:
                if not rotated_files(current.parent):
                    continue
                too_large = False
            else:
                # A hundred quiet logs needn't be looked at every second; one that grows fast must be.
                quiet = size < self._limits.file_bytes // 2 and size - size_before < _QUIET_BYTES
                self._looks[id] = (now + _QUIET_SECONDS if quiet else 0.0, size)
                too_large = size >= self._limits.file_bytes
                if not too_large:
                    continue
            if too_large:
                numbers = [number for number, _ in rotated_files(current.parent)]
                current.rename(current.with_name(f"{max(numbers, default=0) + 1:010d}.log"))
                await reach(LOG_RENAMED)
                rotated += 1
            try:
                await reopen(id)
                await reach(LOG_REOPENED)
            except ShellWeGoError as error:  # It ended meanwhile; its next run opens `current` by itself.
                log.debug("logs.not_reopened", instance=id, error=str(error))
        return rotated

    async def prune(self, live: Collection[InstanceId]) -> int:
        """Delete what the limits don't leave room for. How many files."""
        self._looks = {id: look for id, look in self._looks.items() if id in live}
        return await asyncio.to_thread(self._prune, frozenset(live))

    def _prune(self, live: frozenset[InstanceId]) -> int:
        doomed = plan_prune(self._files(), live, self._limits)
        for path in doomed:
            path.unlink(missing_ok=True)
        for directory in self._root.glob("*/*"):
            if directory.name not in live:
                with contextlib.suppress(OSError):
                    directory.rmdir()  # Only an empty one goes.
        for directory in self._root.iterdir():
            with contextlib.suppress(OSError):
                directory.rmdir()
        return len(doomed)

    def _files(self) -> list[LogFile]:
        found = []
        for path in self._root.glob("*/*/*"):
            number = _number(path)
            if number is None and path.name != CURRENT:
                continue
            with contextlib.suppress(FileNotFoundError):
                status = path.stat(follow_symlinks=False)
                instance = path.parent
                found.append(
                    LogFile(path, instance.parent.name, instance.name, number, status.st_size, status.st_mtime)
                )
        return found

    def remove_all(self) -> None:
        """Nothing is left: for the removal of a whole cloud."""
        shutil.rmtree(self._root, ignore_errors=True)


def rotated_files(directory: Path) -> list[tuple[int, Path]]:
    """The renamed files of one instance with their numbers, oldest first."""
    try:
        pairs = [(_number(path), path) for path in directory.iterdir()]
    except FileNotFoundError:
        return []
    return sorted((number, path) for number, path in pairs if number is not None)


def _number(path: Path) -> int | None:
    return int(path.stem) if path.suffix == ".log" and path.stem.isascii() and path.stem.isdigit() else None
