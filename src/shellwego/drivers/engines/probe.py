"""What is there of an engine on this machine, and is it good enough?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from shellwego.drivers.engines.catalogue import Engine, Version, version_text
from shellwego.drivers.engines.places import Found, Source, ask_version, find_program, too_old


@dataclass(frozen=True, slots=True)
class Observation:
    """
    `problem` is why the engine can't be used; `warning` is what its use costs. `path` is that of its first program.
    """

    engine: Engine
    path: Path | None
    source: Source | None
    version: Version | None
    problem: str = ""
    warning: str = ""

    @property
    def usable(self) -> bool:
        return not self.problem

    @property
    def wants_install(self) -> bool:
        """Whether an installation could better it."""
        return not self.usable or self.source is Source.FALLBACK


def observe(engine: Engine, *, directories: tuple[Path, ...] | None = None, path: str | None = None) -> Observation:
    """Look for every program of the engine and ask the first for its version. Blocks for some milliseconds."""
    found: list[Found] = []
    missing: list[str] = []
    for program in engine.programs:
        one = find_program(program, directories=directories, path=path)
        if one is None:
            missing.append(program)
        else:
            found.append(one)
    if missing:
        return Observation(engine, None, None, None, problem=f"{' and '.join(missing)} can't be found.")
    first = found[0]
    version = first.version or ask_version(engine, first.path)
    if first.source is Source.FALLBACK:
        return Observation(engine, first.path, first.source, version, warning=engine.fallback_costs)
    return Observation(engine, first.path, first.source, version, problem=too_old(engine, version) or "")


def describe_version(observation: Observation) -> str:
    return version_text(observation.version) if observation.version else "-"
