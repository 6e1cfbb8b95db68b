"""Which keys may `shellwego.toml` hold, and what may each be?

One table of keys says it once: `core.appfile` reads documents by it, the published JSON schema is printed from it, and
a test holds the flags of `shellwego deploy` against it. Ranges repeat those of the API's models; a test compares them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from shellwego.core.apps import MAXIMUM_INSTANCES, check_app_name, check_config, check_process_type
from shellwego.core.errors import InvalidField
from shellwego.core.quantities import parse_cpu_millis, parse_size_mib

SCHEMA_URL = "https://shellwego.example/schema/shellwego.schema.json"


@dataclass(frozen=True, slots=True)
class Leaf:
    """One value: how it is read (raising InvalidField), and how the schema says so."""

    read: Callable[[Any, str], Any]
    schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Key:
    shape: Shape
    about: str


@dataclass(frozen=True, slots=True)
class Table:
    keys: Mapping[str, Key]
    aliases: Mapping[str, str] = field(default_factory=dict)
    """What people write from habit of other tools, and what it is called here."""


@dataclass(frozen=True, slots=True)
class Named:
    """A table whose keys the user chooses: process types, variables, build arguments."""

    check_name: Callable[[str, str], object]
    name_pattern: str
    each: Leaf | Short


@dataclass(frozen=True, slots=True)
class Short:
    """A table that may be written as a bare value: the value of its key `key`."""

    key: str
    value: Leaf
    table: Table


Shape = Leaf | Table | Named | Short


def schema_of(shape: Shape, about: str = "") -> dict[str, Any]:
    """The JSON schema (2020-12) of a shape."""
    described = {"description": about} if about else {}
    match shape:
        case Leaf():
            return {**shape.schema, **described}
        case Table():
            properties = {name: schema_of(key.shape, key.about) for name, key in shape.keys.items()}
            return {"type": "object", **described, "properties": properties, "additionalProperties": False}
        case Named():
            return {
                "type": "object",
                **described,
                "patternProperties": {shape.name_pattern: schema_of(shape.each)},
                "additionalProperties": False,
            }
        case Short():
            return {"anyOf": [schema_of(shape.value), schema_of(shape.table)], **described}


def file_schema() -> dict[str, Any]:
    """The published schema of `shellwego.toml`."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_URL,
        "title": "shellwego.toml",
        **schema_of(FILE, "How ShellWeGo builds and runs this app. Every key is also a flag of `shellwego deploy`."),
    }


def leaf_paths(table: Table, prefix: str = "") -> Iterator[str]:
    """Every key by its path, as `health.path`; a user-chosen name is `*`."""
    for name, key in table.keys.items():
        path = f"{prefix}{name}"
        match key.shape:
            case Table():
                yield from leaf_paths(key.shape, path + ".")
            case Named(each=Short(table=inner)):
                yield f"{path}.*"
                yield from leaf_paths(inner, f"{path}.*.")
            case Named():
                yield f"{path}.*"
            case _:
                yield path


# --- leaves -------------------------------------------------------------------------------------------------------


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(maximum: int, *, example: str = "") -> Leaf:
    def read(value: Any, where: str) -> str:
        if not isinstance(value, str):
            hint = f' Write "{str(value).lower()}" in quotes.' if isinstance(value, int | float) else ""
            raise InvalidField(where, f"must be a string.{hint}")
        if not value:
            raise InvalidField(where, "is empty. Give it a value or leave the key out.")
        if len(value) > maximum:
            raise InvalidField(where, f"is over {maximum} characters.")
        return value

    return Leaf(read, {"type": "string", "minLength": 1, "maxLength": maximum, **_examples(example)})


def _variable() -> Leaf:
    def read(value: Any, where: str) -> str:
        return "" if value == "" and isinstance(value, str) else _text(65536).read(value, where)

    return Leaf(read, {"type": "string"})


def _command(maximum_words: int) -> Leaf:
    words = _words(maximum_words)

    def read(value: Any, where: str) -> str | tuple[str, ...]:
        if isinstance(value, list):
            return tuple(words.read(value, where))
        if not isinstance(value, str):
            raise InvalidField(where, 'must be a command: a string for a shell, or a list such as ["node", "app.js"].')
        text: str = _text(4096).read(value, where)
        return text

    return Leaf(read, {"anyOf": [{"type": "string", "minLength": 1, "maxLength": 4096}, dict(words.schema)]})


def _words(maximum: int) -> Leaf:
    def read(value: Any, where: str) -> tuple[str, ...]:
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            raise InvalidField(where, "must be a list of strings.")
        if not 1 <= len(value) <= maximum:
            raise InvalidField(where, f"must have 1 to {maximum} elements.")
        return tuple(value)

    schema = {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": maximum}
    return Leaf(read, schema)


def _whole(minimum: int, maximum: int) -> Leaf:
    def read(value: Any, where: str) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise InvalidField(where, f"must be a whole number, {minimum} to {maximum}.")
        if not minimum <= value <= maximum:
            raise InvalidField(where, f"{value} is out of range: {minimum} to {maximum}.")
        return value

    return Leaf(read, {"type": "integer", "minimum": minimum, "maximum": maximum})


def _seconds(minimum: float, maximum: float) -> Leaf:
    def read(value: Any, where: str) -> float:
        if not _is_number(value):
            raise InvalidField(where, f"must be a number of seconds, {minimum:g} to {maximum:g}, without quotes.")
        if not minimum <= value <= maximum:  # NaN compares as out of range, as it should.
            raise InvalidField(where, f"{value:g} is out of range: {minimum:g} to {maximum:g} seconds.")
        return float(value)

    return Leaf(read, {"type": "number", "minimum": minimum, "maximum": maximum})


def _yes() -> Leaf:
    def read(value: Any, where: str) -> bool:
        if value is not True:
            raise InvalidField(where, "can only be true. Leave the key out otherwise.")
        return True

    return Leaf(read, {"const": True})


def _flag() -> Leaf:
    def read(value: Any, where: str) -> bool:
        if not isinstance(value, bool):
            raise InvalidField(where, "must be true or false, without quotes.")
        return value

    return Leaf(read, {"type": "boolean"})


def _size(minimum_mib: int, maximum_mib: int) -> Leaf:
    def read(value: Any, where: str) -> int:
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise InvalidField(where, 'must be a size such as "256m" or "1g".')
        return parse_size_mib(value, field=where, minimum_mib=minimum_mib, maximum_mib=maximum_mib)

    pattern = r"^[0-9]+(\.[0-9]+)?\s*[kmgtKMGT]?([iI]?[bB])?$"
    return Leaf(read, {"type": ["string", "integer"], "pattern": pattern, **_examples("256m", "1g")})


def _cpu() -> Leaf:
    def read(value: Any, where: str) -> int:
        if not isinstance(value, str) and not _is_number(value):
            raise InvalidField(where, 'must be a number of cores such as 0.5, or "500m".')
        return parse_cpu_millis(value, field=where)

    return Leaf(read, {"type": ["number", "string"], "pattern": r"^[0-9]+(\.[0-9]+)?m?$", "exclusiveMinimum": 0})


def _http_path() -> Leaf:
    def read(value: Any, where: str) -> str:
        text: str = _text(1024).read(value, where)
        if not text.startswith("/"):
            raise InvalidField(where, f"must start with '/': write {'/' + text!r}.")
        return text

    return Leaf(read, {"type": "string", "pattern": "^/", "maxLength": 1024, **_examples("/health")})


def _app_name() -> Leaf:
    def read(value: Any, where: str) -> str:
        return check_app_name(_text(63).read(value, where), field=where)

    return Leaf(read, {"type": "string", "pattern": "^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$"})


def _choice(*choices: str) -> Leaf:
    def read(value: Any, where: str) -> str:
        if value not in choices:
            raise InvalidField(where, f"must be one of {', '.join(choices)}.")
        return str(value)

    return Leaf(read, {"enum": list(choices)})


def _examples(*examples: str) -> dict[str, list[str]]:
    return {"examples": list(examples)} if any(examples) else {}


def _any_name(name: str, where: str) -> object:
    if not 1 <= len(name) <= 128:
        raise InvalidField(where, "must have 1 to 128 characters.")
    return name


def _process_name(name: str, where: str) -> object:
    return check_process_type(name, field=where)


def _variable_name(name: str, where: str) -> object:
    return check_config({name: ""}, field=where.rpartition(".")[0])


# --- the file -----------------------------------------------------------------------------------------------------

_PROCESS_PATTERN = "^[a-z]([a-z0-9_-]{0,38}[a-z0-9])?$"

HEALTH = Table(
    {
        "path": Key(_http_path(), "An HTTP check: GET of this path must answer 200 to 399."),
        "tcp": Key(_yes(), "A TCP check: the port must accept connections. This is the default."),
        "command": Key(_command(64), "A command inside the instance that must exit 0. A string runs in a shell."),
        "none": Key(_yes(), "No check: an instance that runs is healthy."),
        "interval_seconds": Key(_seconds(0.2, 3600), "Time between checks (5)."),
        "timeout_seconds": Key(_seconds(0.1, 600), "Time a check may take (3)."),
        "start_period_seconds": Key(_seconds(0, 3600), "Time in which failures don't count yet (60)."),
        "retries": Key(_whole(1, 100), "Failures in a row that make an instance unhealthy (3)."),
    },
    aliases={"http": "path", "url": "path", "cmd": "command", "grace_period": "start_period_seconds"},
)
RESOURCES = Table(
    {
        "memory": Key(_size(16, 1 << 20), "Memory of one instance (256m)."),
        "cpu": Key(_cpu(), "Cores of one instance (0.5)."),
        "pids": Key(_whole(8, 32_768), "Processes and threads of one instance (256)."),
        "disk": Key(_size(16, 1 << 20), "Size of one instance's own writable files (1g)."),
    },
    aliases={"ram": "memory", "cpus": "cpu", "storage": "disk", "processes": "pids"},
)
PROCESS = Table(
    {
        "command": Key(_command(256), "What to run. A string runs in a shell, a list as it is."),
        "health": Key(HEALTH, "This process type's own health check."),
        "resources": Key(RESOURCES, "This process type's own resources."),
    },
    aliases={"cmd": "command", "run": "command", "start": "command", "healthcheck": "health"},
)
BUILD = Table(
    {
        "dockerfile": Key(_text(1024, example="deploy/Dockerfile"), "Path of the Dockerfile within the source."),
        "target": Key(_text(128), "Stage of the Dockerfile to build."),
        "args": Key(Named(_any_name, "^.{1,128}$", _variable()), "Build arguments (ARG). Never secrets: they stay."),
        "secrets": Key(_words(32), "Names of variables of whoever deploys, given to the build as secret mounts."),
        "no_cache": Key(_flag(), "Build everything anew."),
        "trusted": Key(_flag(), "Run the build's steps in runc. Only where the operator allows it."),
    },
    aliases={"file": "dockerfile", "build_args": "args", "stage": "target"},
)
FILE = Table(
    {
        "name": Key(_app_name(), "The app's name."),
        "port": Key(_whole(1, 65535), "The port the app listens on; it is also given as PORT (8080)."),
        "runtime": Key(_choice("gvisor", "gvisor-host-network", "runc"), "How instances are isolated (gvisor)."),
        "grace_seconds": Key(_seconds(0, 3600), "Time between SIGTERM and SIGKILL when an instance is stopped (10)."),
        "processes": Key(
            Named(_process_name, _PROCESS_PATTERN, Short("command", _command(256), PROCESS)),
            "What the app runs, by process type, as in a Procfile. Only `web` gets traffic.",
        ),
        "scale": Key(
            Named(_process_name, _PROCESS_PATTERN, _whole(0, MAXIMUM_INSTANCES)),
            "How many instances of each process type. Left out, it stays as it is.",
        ),
        "health": Key(
            HEALTH, "How we know that an instance can serve, for process types without a check of their own."
        ),
        "resources": Key(RESOURCES, "What one instance may use, for process types without resources of their own."),
        "env": Key(
            Named(_variable_name, "^[A-Za-z_][A-Za-z0-9_]{0,254}$", _variable()),
            "Variables, set at each deploy. Secrets don't belong in a file: `shellwego config set`.",
        ),
        "build": Key(BUILD, "How the image is built."),
    },
    aliases={
        "app": "name",
        "healthcheck": "health",
        "checks": "health",
        "environment": "env",
        "replicas": "scale",
        "instances": "scale",
        "process": "processes",
        "kill_timeout": "grace_seconds",
    },
)
