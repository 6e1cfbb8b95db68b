"""From what an app's own file and the flags say to what the API is asked for.

Pure: the environment, from which build secrets take their values, is passed in. Fields that nobody spoke of stay
unset, so that the cloud keeps what the app's current release has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shellwego.core.appfile import AppFile, BuildWish, HealthWish, ProcessWish, ResourcesWish
from shellwego.core.errors import InvalidField
from shellwego.protocol.public import (
    BuildOptions,
    DeploymentCreate,
    Health,
    ProcessShape,
    RegistryLogin,
    ResourceAmounts,
)


def deployment_of(
    wish: AppFile,
    *,
    image: str | None = None,
    source: str | None = None,
    registry_login: RegistryLogin | None = None,
    note: str = "",
    environment: Mapping[str, str] | None = None,
) -> DeploymentCreate:
    """
    The request that asks for what the wish says, of an image or an uploaded source.

    Raises InvalidField for a build secret that the environment doesn't hold.
    """
    said: dict[str, Any] = {
        "image": image,
        "source": source,
        "registry_login": registry_login,
        "note": note or None,
        "port": wish.port,
        "runtime": wish.runtime,
        "grace_seconds": wish.grace_seconds,
        "processes": {name: _process(process) for name, process in wish.processes.items()} or None,
        "replicas": dict(wish.scale) or None,
        "health": _health(wish.health),
        "resources": _resources(wish.resources),
        "config": dict(wish.env) or None,
        "build": _build(wish.build, environment or {}) if wish.build is not None and image is None else None,
    }
    return DeploymentCreate(**_spoken(said))


def _process(wish: ProcessWish) -> ProcessShape:
    return ProcessShape(
        **_spoken(
            {
                "command": _command(wish.command),
                "health": _health(wish.health),
                "resources": _resources(wish.resources),
            }
        )
    )


def _health(wish: HealthWish | None) -> Health | None:
    if wish is None:
        return None
    command = ["/bin/sh", "-c", wish.command] if isinstance(wish.command, str) else _command(wish.command)
    return Health(
        **_spoken(
            {
                "kind": wish.kind,
                "path": wish.path,
                "command": command,
                "interval_seconds": wish.interval_seconds,
                "timeout_seconds": wish.timeout_seconds,
                "start_period_seconds": wish.start_period_seconds,
                "retries": wish.retries,
            }
        )
    )


def _resources(wish: ResourcesWish | None) -> ResourceAmounts | None:
    if wish is None:
        return None
    amounts = {
        "memory_mib": wish.memory_mib,
        "cpu_millis": wish.cpu_millis,
        "pids": wish.pids,
        "disk_mib": wish.disk_mib,
    }
    return ResourceAmounts(**_spoken(amounts))


def _build(wish: BuildWish, environment: Mapping[str, str]) -> BuildOptions:
    missing = [name for name in wish.secrets if name not in environment]
    if missing:
        raise InvalidField("build.secrets", f"{', '.join(missing)} is not set here. Type: export {missing[0]}=...")
    return BuildOptions(
        **_spoken(
            {
                "dockerfile": wish.dockerfile,
                "target": wish.target,
                "args": dict(wish.args) or None,
                "secrets": {name: environment[name] for name in wish.secrets} or None,
                "no_cache": wish.no_cache,
                "trusted": wish.trusted,
            }
        )
    )


def _command(command: str | tuple[str, ...] | None) -> str | list[str] | None:
    return list(command) if isinstance(command, tuple) else command


def _spoken(said: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in said.items() if value is not None}
