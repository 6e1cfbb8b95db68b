"""What does an app's own file, `shellwego.toml`, say?

`parse_appfile` answers with a value or refuses with every wrong key and value, each with its line and, for a slip of
the keyboard, the key that was meant. Flags of `shellwego deploy` are the same value, laid over the file by
`overlaid`. What is None was not said: the cloud's default, or what the app has already, stays.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from shellwego.core.appfile_keys import FILE, Leaf, Named, Shape, Short, Table
from shellwego.core.apps import check_config
from shellwego.core.errors import InvalidField
from shellwego.core.health import CheckKind
from shellwego.core.toml_lines import KeyPath, find_lines

FILE_NAME = "shellwego.toml"
MAXIMUM_BYTES = 256 * 1024

Command = str | tuple[str, ...]
"""A string is for a shell (`/bin/sh -c`), a tuple is run as it is."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class HealthWish:
    kind: CheckKind | None = None
    path: str | None = None
    command: Command | None = None
    interval_seconds: float | None = None
    timeout_seconds: float | None = None
    start_period_seconds: float | None = None
    retries: int | None = None


@dataclass(frozen=True, slots=True)
class ResourcesWish:
    memory_mib: int | None = None
    cpu_millis: int | None = None
    pids: int | None = None
    disk_mib: int | None = None


@dataclass(frozen=True, slots=True)
class ProcessWish:
    command: Command | None = None
    health: HealthWish | None = None
    resources: ResourcesWish | None = None


@dataclass(frozen=True, slots=True)
class BuildWish:
    dockerfile: str | None = None
    target: str | None = None
    args: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    """Names only: the values come from the environment of whoever deploys."""
    no_cache: bool | None = None
    trusted: bool | None = None


@dataclass(frozen=True, slots=True)
class AppFile:
    name: str | None = None
    port: int | None = None
    runtime: str | None = None
    grace_seconds: float | None = None
    processes: Mapping[str, ProcessWish] = field(default_factory=dict)
    scale: Mapping[str, int] = field(default_factory=dict)
    health: HealthWish | None = None
    resources: ResourcesWish | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    build: BuildWish | None = None


class AppFileRefused(InvalidField):
    """Everything that is wrong with a file, in the order of its lines; as an InvalidField, it is the first."""

    def __init__(self, problems: list[InvalidField], file_name: str = FILE_NAME) -> None:
        self.problems = tuple(sorted(problems, key=lambda problem: problem.line or 0))
        self.file_name = file_name
        first = self.problems[0]
        super().__init__(first.field, first.problem, line=first.line)
        self.args = ("\n".join(f"{file_name}, {problem}" for problem in self.problems),)


def parse_appfile(text: str, *, file_name: str = FILE_NAME) -> AppFile:
    """What the text says. Raises AppFileRefused."""
    if len(text) > MAXIMUM_BYTES:
        raise AppFileRefused([InvalidField("file", f"is over {MAXIMUM_BYTES // 1024} KiB.", line=1)], file_name)
    text = text.removeprefix("\ufeff")  # Editors on Windows put a byte order mark first, which TOML has no place for.
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise AppFileRefused([_syntax_problem(str(error), text)], file_name) from error
    except RecursionError as error:
        raise AppFileRefused([InvalidField("file", "is nested too deeply.", line=1)], file_name) from error
    reader = _Reader(find_lines(text))
    said = reader.read(FILE, document, ())
    if reader.problems:
        raise AppFileRefused(reader.problems, file_name)
    return _appfile(said)


def overlaid(file: AppFile, flags: AppFile) -> AppFile:
    """The file with the flags laid over it: what a flag says wins, key by key."""
    return AppFile(
        name=_first(flags.name, file.name),
        port=_first(flags.port, file.port),
        runtime=_first(flags.runtime, file.runtime),
        grace_seconds=_first(flags.grace_seconds, file.grace_seconds),
        processes={
            name: _overlaid_process(file.processes.get(name), flags.processes.get(name))
            for name in {**file.processes, **flags.processes}
        },
        scale={**file.scale, **flags.scale},
        health=overlaid_health(file.health, flags.health),
        resources=overlaid_resources(file.resources, flags.resources),
        env={**file.env, **flags.env},
        build=_overlaid_build(file.build, flags.build),
    )


def overlaid_health(under: HealthWish | None, over: HealthWish | None) -> HealthWish | None:
    if under is None or over is None:
        return over or under
    if over.kind is not None:  # Another kind of check brings its own path or command.
        under = dataclasses.replace(under, kind=None, path=None, command=None)
    return _fieldwise(under, over)


def overlaid_resources(under: ResourcesWish | None, over: ResourcesWish | None) -> ResourcesWish | None:
    return (over or under) if under is None or over is None else _fieldwise(under, over)


def _overlaid_process(under: ProcessWish | None, over: ProcessWish | None) -> ProcessWish:
    under, over = under or ProcessWish(), over or ProcessWish()
    return ProcessWish(
        command=under.command if over.command is None else over.command,
        health=overlaid_health(under.health, over.health),
        resources=overlaid_resources(under.resources, over.resources),
    )


def _overlaid_build(under: BuildWish | None, over: BuildWish | None) -> BuildWish | None:
    if under is None or over is None:
        return over or under
    merged = _fieldwise(under, over)
    secrets = tuple(dict.fromkeys(under.secrets + over.secrets))
    return dataclasses.replace(merged, args={**under.args, **over.args}, secrets=secrets)


def _first(over: T | None, under: T | None) -> T | None:
    return under if over is None else over


def _fieldwise(under: T, over: T) -> T:
    said = {
        f.name: getattr(over, f.name)
        for f in dataclasses.fields(over)  # type: ignore[arg-type]
        if getattr(over, f.name) is not None
    }
    return dataclasses.replace(under, **said)  # type: ignore[type-var]


# --- reading by the table of keys ---------------------------------------------------------------------------------


class _Reader:
    """Reads a document by a shape, collecting problems instead of stopping at the first."""

    def __init__(self, lines: Mapping[KeyPath, int]) -> None:
        self.lines = lines
        self.problems: list[InvalidField] = []

    def read(self, shape: Shape, value: Any, path: KeyPath) -> Any:
        match shape:
            case Leaf():
                return self._leaf(shape, value, path)
            case Short():
                if isinstance(value, dict):
                    return self.read(shape.table, value, path)
                return {shape.key: self._leaf(shape.value, value, path)}
            case Table() | Named():
                if not isinstance(value, dict):
                    self._problem(path, f"must be a table: write [{_dotted(path)}] and its keys below it.")
                    return {}
                return self._table(shape, value, path) if isinstance(shape, Table) else self._named(shape, value, path)

    def _leaf(self, leaf: Leaf, value: Any, path: KeyPath) -> Any:
        try:
            return leaf.read(value, _dotted(path))
        except InvalidField as error:
            self._problem(path, error.problem)
            return None

    def _table(self, table: Table, values: Mapping[str, Any], path: KeyPath) -> dict[str, Any]:
        said = {}
        for name, value in values.items():
            if name in table.keys:
                said[name] = self.read(table.keys[name].shape, value, (*path, name))
            else:
                self._problem((*path, name), _unknown(name, table, path))
        if "interval_seconds" in table.keys:
            self._one_check(said, path)
        return said

    def _named(self, shape: Named, values: Mapping[str, Any], path: KeyPath) -> dict[str, Any]:
        said = {}
        for name, value in values.items():
            try:
                shape.check_name(name, _dotted((*path, name)))
            except InvalidField as error:
                self._problem((*path, name), error.problem)
            else:
                said[name] = self.read(shape.each, value, (*path, name))
        if path == ("env",) and not self.problems:
            try:
                check_config(said, field="env")
            except InvalidField as error:
                self._problem((*path, *error.field.split(".")[1:]), error.problem)
        return said

    def _one_check(self, said: Mapping[str, Any], path: KeyPath) -> None:
        kinds = [name for name in ("path", "tcp", "command", "none") if name in said]
        if len(kinds) > 1:
            self._problem((*path, kinds[1]), f"can't stand beside {kinds[0]!r}: an app has one health check.")

    def _problem(self, path: KeyPath, problem: str) -> None:
        line = next((self.lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self.lines), None)
        self.problems.append(InvalidField(_dotted(path), problem, line=line))


def _unknown(name: str, table: Table, path: KeyPath) -> str:
    where = f"[{_dotted(path)}]" if path else "the top of the file"
    known = list(table.keys)
    meant = table.aliases.get(name) or next(iter(difflib.get_close_matches(name.lower(), known, 1, 0.6)), None)
    if meant is not None and meant in known:
        return f"is not a key of {where}. Did you mean {meant!r}?"
    # The commonest slip that isn't a typo: a key under the header of another table.
    homes = [home for home, key in FILE.keys.items() if isinstance(key.shape, Table) and name in key.shape.keys]
    if path and name in FILE.keys:
        return f"is not a key of {where}. It belongs at the top of the file, before the first [table]."
    if homes and _dotted(path) not in homes:
        return f"is not a key of {where}. It belongs in [{homes[0]}]."
    return f"is not a key of {where}. Its keys are: {', '.join(known)}."


def _dotted(path: KeyPath) -> str:
    return ".".join(str(part) for part in path) or "file"


def _syntax_problem(message: str, text: str) -> InvalidField:
    """tomllib says `Invalid value (at line 3, column 5)`, or `(at end of document)`."""
    where = re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)$", message)
    what = message[: where.start()] if where else message
    line = int(where[1]) if where and where[1] else text.count("\n") + 1
    return InvalidField("syntax", f"{what}. This is not TOML.", line=line)


# --- from what was read to values ---------------------------------------------------------------------------------


def _appfile(said: Mapping[str, Any]) -> AppFile:
    return AppFile(
        name=said.get("name"),
        port=said.get("port"),
        runtime=said.get("runtime"),
        grace_seconds=said.get("grace_seconds"),
        processes={
            name: ProcessWish(
                process.get("command"), _health(process.get("health")), _resources(process.get("resources"))
            )
            for name, process in said.get("processes", {}).items()
        },
        scale=said.get("scale", {}),
        health=_health(said.get("health")),
        resources=_resources(said.get("resources")),
        env=said.get("env", {}),
        build=BuildWish(**said["build"]) if "build" in said else None,
    )


def _health(said: Mapping[str, Any] | None) -> HealthWish | None:
    if said is None:
        return None
    kinds = {"path": CheckKind.HTTP, "tcp": CheckKind.TCP, "command": CheckKind.COMMAND, "none": CheckKind.NONE}
    kind = next((kinds[name] for name in kinds if name in said), None)
    return HealthWish(kind=kind, **{name: value for name, value in said.items() if name not in {"tcp", "none"}})


def _resources(said: Mapping[str, Any] | None) -> ResourcesWish | None:
    if said is None:
        return None
    return ResourcesWish(said.get("memory"), said.get("cpu"), said.get("pids"), said.get("disk"))
