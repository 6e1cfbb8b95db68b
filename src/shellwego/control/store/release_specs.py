"""How does the spec of a release lie in the database? As JSON, which newer versions read too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shellwego.control.store.records import ReleaseSpec
from shellwego.core.apps import Resources
from shellwego.core.health import CheckKind, HealthCheck
from shellwego.core.releases import ProcessType, RuntimeClass


def spec_to_json(spec: ReleaseSpec) -> dict[str, Any]:
    """What `spec_from_json` reads back to the same value."""
    return {
        "processes": [
            {
                "name": process.name,
                "command": list(process.command),
                "health": {
                    "kind": process.health.kind.value,
                    "path": process.health.path,
                    "command": list(process.health.command),
                    "interval_seconds": process.health.interval_seconds,
                    "timeout_seconds": process.health.timeout_seconds,
                    "start_period_seconds": process.health.start_period_seconds,
                    "retries": process.health.retries,
                },
                "resources": {
                    "memory_mib": process.resources.memory_mib,
                    "cpu_millis": process.resources.cpu_millis,
                    "pids": process.resources.pids,
                    "disk_mib": process.resources.disk_mib,
                },
            }
            for process in spec.processes
        ],
        "port": spec.port,
        "runtime": spec.runtime,
        "grace_seconds": spec.grace_seconds,
        "commands_found": spec.commands_found,
        "port_found": spec.port_found,
    }


def spec_from_json(value: Mapping[str, Any]) -> ReleaseSpec:
    """A spec of this or an older version: what is missing has today's default."""
    return ReleaseSpec(
        processes=tuple(
            ProcessType(
                name=process["name"],
                command=tuple(process.get("command", ())),
                health=_health_from_json(process.get("health", {})),
                resources=Resources(**process.get("resources", {})),
            )
            for process in value["processes"]
        ),
        port=value.get("port", 8080),
        runtime=value.get("runtime", RuntimeClass.GVISOR),
        grace_seconds=value.get("grace_seconds", 10.0),
        commands_found=value.get("commands_found", False),
        port_found=value.get("port_found", False),
    )


def _health_from_json(value: Mapping[str, Any]) -> HealthCheck:
    known = dict(value)
    if "kind" in known:
        known["kind"] = CheckKind(known["kind"])
    if "command" in known:
        known["command"] = tuple(known["command"])
    return HealthCheck(**known)
