"""What shape does the next release have, if that was asked for and this is what there is?

Pure. What a request leaves out stays as in the release before, with one exception: commands and ports that were
found in a source or an image, rather than asked for, belong to that image and don't outlive it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from shellwego.control.store.records import ReleaseSpec
from shellwego.core.apps import WEB, Resources, check_process_type, check_replicas
from shellwego.core.errors import InvalidField
from shellwego.core.health import CheckKind, HealthCheck
from shellwego.core.procfile import RELEASE_PROCESS
from shellwego.core.releases import ProcessType

DEFAULT_PORT = 8080
_LIKELY_PORTS = (DEFAULT_PORT, 80, 8000, 3000, 5000)
_NEEDS_PORT = frozenset({CheckKind.HTTP, CheckKind.TCP})


@dataclass(frozen=True, slots=True)
class Found:
    """What the image, or the source it was built from, says of itself. `commands` are a Procfile's, by process type."""

    commands: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    exposed_ports: Collection[int] = ()


def shell_or_words(command: str | Collection[str]) -> tuple[str, ...]:
    """A string runs in a shell of the image, as every peer does; a list as it is."""
    if isinstance(command, str):
        return ("/bin/sh", "-c", command) if command.strip() else ()
    return tuple(command)


def check_shape(request: Mapping[str, Any]) -> None:
    """Refuse what no release could have. Raises InvalidField."""
    for name, shape in request.get("processes", {}).items():
        check_process_type(name, field=f"processes.{name[:60]}")
        health = shape.get("health") or {}
        kind = health.get("kind") or (CheckKind.HTTP if "path" in health else None)
        if name != WEB and kind in _NEEDS_PORT:
            raise InvalidField(
                f"processes.{name}.health.kind", f"{kind} needs a port, which only {WEB!r} has. Use command or none."
            )
    if "processes" in request and not request["processes"]:
        raise InvalidField("processes", "names no process type.")
    for name, count in request.get("replicas", {}).items():
        check_process_type(name, field=f"replicas.{name[:60]}")
        check_replicas(count, field=f"replicas.{name}")


def wanted_spec(base: ReleaseSpec | None, request: Mapping[str, Any], found: Found, *, new_image: bool) -> ReleaseSpec:
    """The next release's spec. `new_image` says that its image isn't the base's."""
    asked: Mapping[str, Any] = request.get("processes", {})
    keep_commands = base is not None and not (new_image and base.commands_found)
    if found.commands:
        names = [*found.commands, *(name for name in asked if name not in found.commands)]
    elif asked:
        names = list(asked)
    elif base is not None and keep_commands:
        names = [process.name for process in base.processes]
    else:
        names = [WEB]
    commands_found = any(name not in asked or "command" not in asked[name] for name in found.commands)
    if not new_image and base is not None and not asked:
        commands_found = base.commands_found
    port, port_found = _port(base, request, found, new_image=new_image)
    start = base if base is not None else ReleaseSpec()
    return ReleaseSpec(
        processes=tuple(
            _process(
                name,
                asked.get(name, {}),
                request,
                found.commands.get(name),
                base.process(name) if base is not None else None,
                keep_command=keep_commands,
            )
            for name in names
        ),
        port=port,
        runtime=request.get("runtime") or start.runtime,
        grace_seconds=start.grace_seconds if request.get("grace_seconds") is None else request["grace_seconds"],
        commands_found=commands_found,
        port_found=port_found,
    )


def wanted_replicas(spec: ReleaseSpec, known: Mapping[str, int], request: Mapping[str, Any]) -> dict[str, int]:
    """How many instances of which process types change. Raises InvalidField for a type that the release hasn't."""
    asked: Mapping[str, int] = request.get("replicas", {})
    for name in asked:
        if spec.process(name) is None:
            types = ", ".join(process.name for process in spec.processes)
            raise InvalidField(f"replicas.{name}", f"there is no such process type. This release has: {types}.")
    new = {p.name: int(p.name != RELEASE_PROCESS) for p in spec.processes if p.name not in known}
    return {**new, **asked}


def _process(
    name: str,
    asked: Mapping[str, Any],
    request: Mapping[str, Any],
    found: str | tuple[str, ...] | None,
    before: ProcessType | None,
    *,
    keep_command: bool,
) -> ProcessType:
    if "command" in asked:
        command = shell_or_words(asked["command"])
    elif found is not None:
        command = shell_or_words(found)
    else:
        command = before.command if before is not None and keep_command else ()
    return ProcessType(
        name=name,
        command=command,
        health=_health(name, asked.get("health"), request.get("health"), before),
        resources=_resources(asked.get("resources"), request.get("resources"), before),
    )


def _health(
    name: str, own: Mapping[str, Any] | None, general: Mapping[str, Any] | None, before: ProcessType | None
) -> HealthCheck:
    default = HealthCheck() if name == WEB else HealthCheck(kind=CheckKind.NONE)
    check = before.health if before is not None else default
    if own is None and name != WEB and (general or {}).get("kind", CheckKind.TCP) in _NEEDS_PORT:
        return check
    given = own if own is not None else general
    if not given:
        return check
    changes = {**given}
    if "kind" in changes:
        changes["kind"] = CheckKind(changes["kind"])
    elif "command" in changes:
        changes["kind"] = CheckKind.COMMAND
    elif "path" in changes:
        changes["kind"] = CheckKind.HTTP
    if "command" in changes:
        changes["command"] = tuple(changes["command"])
    return dataclasses.replace(check, **changes)


def _resources(
    own: Mapping[str, Any] | None, general: Mapping[str, Any] | None, before: ProcessType | None
) -> Resources:
    start = before.resources if before is not None else Resources()
    return dataclasses.replace(start, **(own if own is not None else general or {}))


def _port(base: ReleaseSpec | None, request: Mapping[str, Any], found: Found, *, new_image: bool) -> tuple[int, bool]:
    """The port, and whether it was found rather than asked for."""
    if request.get("port") is not None:
        return request["port"], False
    if base is not None and not (new_image and base.port_found):
        return base.port, base.port_found
    exposed = sorted(found.exposed_ports)
    if not exposed:
        return DEFAULT_PORT, True
    return next((port for port in _LIKELY_PORTS if port in exposed), exposed[0]), True
