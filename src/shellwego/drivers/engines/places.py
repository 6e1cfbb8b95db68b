"""Where is each program on this machine?

What we built lies in a cache outside any repository, once per machine: `CACHE/ENGINE/VERSION/bin/PROGRAM`. A program on
the PATH is taken instead when it is at least as new as the one that we build and test; Debian's old gVisor only when
there is nothing better.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import platformdirs

from shellwego.core.errors import EngineMissing
from shellwego.drivers.engines.catalogue import (
    POSTGRESQL_DIRECTORIES,
    PROGRAM_DIRECTORIES,
    Engine,
    Version,
    engine_of,
    parse_version,
    version_text,
)

_SYSTEM_CACHE = Path("/var/cache/shellwego/engines")
_ASK_SECONDS = 20.0


class Source(StrEnum):
    SYSTEM = "system"
    BUILT = "built"
    FALLBACK = "fallback"  # usable, and worse in ways that `fallback_costs` names


@dataclass(frozen=True, slots=True)
class Found:
    """A program that can be used."""

    path: Path
    source: Source
    version: Version | None


def install_directory() -> Path:
    """Where this user builds engines."""
    named = os.environ.get("SHELLWEGO_ENGINES_DIR")
    if named:
        return Path(named)
    return _SYSTEM_CACHE if os.geteuid() == 0 else platformdirs.user_cache_path("shellwego") / "engines"


def search_directories() -> tuple[Path, ...]:
    """Where engines may have been built, by this user or by root for everybody; only there, if a place is named."""
    if os.environ.get("SHELLWEGO_ENGINES_DIR"):
        return (install_directory(),)
    return tuple(dict.fromkeys((install_directory(), _SYSTEM_CACHE)))


def get_program(name: str) -> Path:
    """The program to run. Raises EngineMissing."""
    found = find_program(name)
    if found is None:
        raise EngineMissing(name, "isn't installed.")
    return found.path


def find_program(name: str, *, directories: tuple[Path, ...] | None = None, path: str | None = None) -> Found | None:
    """The best program of that name here; None when there is none that is new enough."""
    engine = engine_of(name)
    on_path = _on_path(name, path)
    if engine is None:
        return None if on_path is None else Found(on_path, Source.SYSTEM, None)
    if engine.module is None:
        return None if on_path is None else Found(on_path, Source.SYSTEM, None)
    built = find_built(engine, name, directories or search_directories())
    if on_path is None:
        return built
    version = ask_version(engine, on_path)
    if version is not None and version >= engine.minimum and (built is None or version > (built.version or ())):
        return Found(on_path, Source.SYSTEM, version)
    if built is not None:
        return built
    return Found(on_path, Source.FALLBACK, version) if engine.fallback_costs else None


def find_built(engine: Engine, program: str, directories: tuple[Path, ...]) -> Found | None:
    """The pinned version, or else the newest other one, that was built here earlier."""
    candidates = [
        Found(path, Source.BUILT, parse_version(engine, f" {path.parent.parent.name} "))
        for directory in directories
        for path in directory.glob(f"{engine.name}/*/bin/{program}")
        if os.access(path, os.X_OK)
    ]
    pinned = [found for found in candidates if found.path.parent.parent.name == engine.pinned]
    return next(iter(pinned), None) or max(candidates, key=lambda found: found.version or (), default=None)


@functools.lru_cache(maxsize=64)
def ask_version(engine: Engine, program: Path) -> Version | None:
    """What the program says of itself. It is asked once: a process that runs doesn't change its engines."""
    try:
        said = subprocess.run(
            (str(program), *engine.version_arguments),
            check=False,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=_ASK_SECONDS,
            cwd="/",
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse_version(engine, (said.stdout + said.stderr).decode(errors="replace"))


def too_old(engine: Engine, version: Version | None) -> str | None:
    """Why a version won't do; None if it will. One that doesn't tell its version is trusted, not asked again."""
    if version is None or version >= engine.minimum:
        return None
    return f"version {version_text(version)} is too old, {version_text(engine.minimum)} is needed."


def _on_path(name: str, path: str | None) -> Path | None:
    search = os.environ.get("PATH", "") if path is None else path
    directories = [*search.split(os.pathsep), *(PROGRAM_DIRECTORIES if path is None else ())]
    if path is None:
        servers = sorted(Path("/").glob(POSTGRESQL_DIRECTORIES.lstrip("/")), reverse=True)
        directories += map(str, servers)
    found = shutil.which(name, path=os.pathsep.join(filter(None, directories)))
    return None if found is None else Path(found)
