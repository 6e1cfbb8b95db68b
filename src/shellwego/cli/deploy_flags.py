"""What do the flags of `deploy` say, in the terms of the app's own file?

Each value is read by the same leaf of the table of keys that reads the file, so that a flag accepts and refuses exactly
what the file does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shellwego.cli.pairs import parse_counts, parse_pairs
from shellwego.core.appfile import AppFile, BuildWish, HealthWish, ProcessWish, ResourcesWish
from shellwego.core.appfile_keys import BUILD, FILE, HEALTH, RESOURCES, Leaf, Table
from shellwego.core.apps import check_config, check_process_type
from shellwego.core.errors import InvalidField
from shellwego.core.health import CheckKind

FLAG_OF_KEY = {
    "name": "--name",
    "port": "--port",
    "runtime": "--runtime",
    "grace_seconds": "--grace",
    "processes.*": "--process",
    "processes.*.command": "--process",
    "scale.*": "--scale",
    "env.*": "--env",
    "health.path": "--health-path",
    "health.tcp": "--health-tcp",
    "health.command": "--health-command",
    "health.none": "--health-none",
    "health.interval_seconds": "--health-interval",
    "health.timeout_seconds": "--health-timeout",
    "health.start_period_seconds": "--health-start-period",
    "health.retries": "--health-retries",
    "resources.memory": "--memory",
    "resources.cpu": "--cpu",
    "resources.pids": "--pids",
    "resources.disk": "--disk",
    "build.dockerfile": "--dockerfile",
    "build.target": "--target",
    "build.args.*": "--build-arg",
    "build.secrets": "--build-secret",
    "build.no_cache": "--no-cache",
    "build.trusted": "--trusted",
}
"""A process type's own health and resources have no flag: the app-wide ones, and the file, say enough."""


@dataclass(frozen=True, slots=True)
class Flags:
    name: str | None = None
    port: int | None = None
    runtime: str | None = None
    grace: float | None = None
    process: list[str] | None = None
    scale: list[str] | None = None
    env: list[str] | None = None
    health_path: str | None = None
    health_tcp: bool = False
    health_command: str | None = None
    health_none: bool = False
    health_interval: float | None = None
    health_timeout: float | None = None
    health_start_period: float | None = None
    health_retries: int | None = None
    memory: str | None = None
    cpu: str | None = None
    pids: int | None = None
    disk: str | None = None
    dockerfile: str | None = None
    target: str | None = None
    build_arg: list[str] | None = None
    build_secret: list[str] | None = None
    no_cache: bool = False
    trusted: bool = False


def flags_of(flags: Flags) -> AppFile:
    """The flags as a file. Raises InvalidField, naming the flag."""
    return AppFile(
        name=_read(FILE, "name", flags.name, "--name"),
        port=_read(FILE, "port", flags.port, "--port"),
        runtime=_read(FILE, "runtime", flags.runtime, "--runtime"),
        grace_seconds=_read(FILE, "grace_seconds", flags.grace, "--grace"),
        processes=_processes(flags.process or []),
        scale=parse_counts(flags.scale or []),
        health=_health(flags),
        resources=_resources(flags),
        env=check_config(parse_pairs(flags.env or [], field="--env"), field="--env"),
        build=_build(flags),
    )


def _processes(words: list[str]) -> Mapping[str, ProcessWish]:
    commands = parse_pairs(words, field="--process", files=False)
    for name, command in commands.items():
        check_process_type(name, field="--process")
        if not command:
            raise InvalidField("--process", f"{name} has no command. Write {name}=COMMAND.")
    return {name: ProcessWish(command=command) for name, command in commands.items()}


def _health(flags: Flags) -> HealthWish | None:
    kinds = [
        (CheckKind.HTTP, "--health-path", flags.health_path is not None),
        (CheckKind.TCP, "--health-tcp", flags.health_tcp),
        (CheckKind.COMMAND, "--health-command", flags.health_command is not None),
        (CheckKind.NONE, "--health-none", flags.health_none),
    ]
    given = [(kind, flag) for kind, flag, is_given in kinds if is_given]
    if len(given) > 1:
        raise InvalidField(given[1][1], f"can't stand beside {given[0][1]}: an app has one health check.")
    wish = HealthWish(
        kind=given[0][0] if given else None,
        path=_read(HEALTH, "path", flags.health_path, "--health-path"),
        command=_read(HEALTH, "command", flags.health_command, "--health-command"),
        interval_seconds=_read(HEALTH, "interval_seconds", flags.health_interval, "--health-interval"),
        timeout_seconds=_read(HEALTH, "timeout_seconds", flags.health_timeout, "--health-timeout"),
        start_period_seconds=_read(HEALTH, "start_period_seconds", flags.health_start_period, "--health-start-period"),
        retries=_read(HEALTH, "retries", flags.health_retries, "--health-retries"),
    )
    return None if wish == HealthWish() else wish


def _resources(flags: Flags) -> ResourcesWish | None:
    wish = ResourcesWish(
        memory_mib=_read(RESOURCES, "memory", flags.memory, "--memory"),
        cpu_millis=_read(RESOURCES, "cpu", flags.cpu, "--cpu"),
        pids=_read(RESOURCES, "pids", flags.pids, "--pids"),
        disk_mib=_read(RESOURCES, "disk", flags.disk, "--disk"),
    )
    return None if wish == ResourcesWish() else wish


def _build(flags: Flags) -> BuildWish | None:
    wish = BuildWish(
        dockerfile=_read(BUILD, "dockerfile", flags.dockerfile, "--dockerfile"),
        target=_read(BUILD, "target", flags.target, "--target"),
        args=parse_pairs(flags.build_arg or [], field="--build-arg"),
        secrets=tuple(flags.build_secret or ()),
        no_cache=flags.no_cache or None,
        trusted=flags.trusted or None,
    )
    return None if wish == BuildWish() else wish


def _read(table: Table, key: str, value: Any, flag: str) -> Any:
    leaf = table.keys[key].shape
    assert isinstance(leaf, Leaf)
    return None if value is None else leaf.read(value, flag)
