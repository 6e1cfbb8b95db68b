"""What is an app, and what may it be called?

An app is a name, its desired number of instances per process type, and its current release. Whether it should
run at all is `stopped`: a stopped app keeps its releases, configuration and name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from shellwego.core.errors import InvalidField

# A name becomes a DNS label (RFC 1123: 63 characters); 40 leaves room for a suffix such as `-pr-1234`.
_NAME = re.compile(r"[a-z](?:[a-z0-9-]{0,38}[a-z0-9])?")
_PROCESS = re.compile(r"[a-z](?:[a-z0-9_-]{0,38}[a-z0-9])?")
_ENV_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")

RESERVED_NAMES = frozenset({"api", "www", "admin", "dashboard", "registry", "git", "mail", "status", "localhost"})
"""Host names under the cloud's domain that are, or may become, our own."""

WEB = "web"
"""The process type that gets a port, a host name and traffic."""

RESERVED_CONFIG = frozenset({"PORT", "SHELLWEGO_APP", "SHELLWEGO_INSTANCE", "SHELLWEGO_RELEASE", "SHELLWEGO_PROCESS"})
"""Variables that ShellWeGo sets itself."""

MAXIMUM_CONFIG_BYTES = 64 * 1024
MAXIMUM_INSTANCES = 100


class AppStatus(StrEnum):
    """What an app is doing, derived from its instances and deployments; never stored."""

    EMPTY = "empty"  # nothing was deployed yet
    DEPLOYING = "deploying"  # a deployment is under way and nothing serves yet
    RUNNING = "running"  # every desired instance is healthy
    DEGRADED = "degraded"  # some are
    CRASHED = "crashed"  # none is, and they keep failing
    STARTING = "starting"  # none is yet
    STOPPED = "stopped"  # by wish
    DELETING = "deleting"


@dataclass(frozen=True, slots=True)
class Resources:
    """What one instance may use. `disk_mib` bounds its private writable layer."""

    memory_mib: int = 256
    cpu_millis: int = 500
    pids: int = 256
    disk_mib: int = 1024


def check_app_name(name: str, *, field: str = "name") -> str:
    """The name, if an app may be called so. Raises InvalidField."""
    if _NAME.fullmatch(name) is None:
        raise InvalidField(
            field,
            f"{name[:60]!r} is not an app name. Use 1 to 40 of a-z, 0-9 and '-', a letter first, no '-' last.",
        )
    if name in RESERVED_NAMES:
        raise InvalidField(field, f"{name!r} is reserved for the cloud itself. Choose another name.")
    return name


def is_app_name(text: str) -> bool:
    """Whether the text has the form of a name, reserved or not."""
    return _NAME.fullmatch(text) is not None


def check_process_type(name: str, *, field: str = "processes") -> str:
    """The name, if a process type may be called so (as in a Procfile). Raises InvalidField."""
    if _PROCESS.fullmatch(name) is None:
        raise InvalidField(field, f"{name[:60]!r} is not a process type. Use 1 to 40 of a-z, 0-9, '-' and '_'.")
    return name


def check_config(values: dict[str, str], *, field: str = "config") -> dict[str, str]:
    """The values, if they can be an environment (environ(7)): sound keys, no NUL, 64 KiB. Raises InvalidField."""
    for key, value in values.items():
        if _ENV_KEY.fullmatch(key) is None:
            raise InvalidField(
                f"{field}.{key[:60]}",
                "is not a variable name. Use A-Z, a-z, 0-9 and '_', no digit first.",
            )
        if key in RESERVED_CONFIG:
            raise InvalidField(f"{field}.{key}", "is set by ShellWeGo itself and can't be changed.")
        if "\0" in value:
            raise InvalidField(f"{field}.{key}", "holds a NUL character, which no environment can.")
    if sum(len(k.encode()) + len(v.encode()) + 2 for k, v in values.items()) > MAXIMUM_CONFIG_BYTES:
        raise InvalidField(
            field,
            f"is over {MAXIMUM_CONFIG_BYTES // 1024} KiB altogether. Keep files in the image.",
        )
    return values


def check_replicas(count: int, *, field: str = "replicas") -> int:
    """The count, if an app may have so many instances of one process type. Raises InvalidField."""
    if not 0 <= count <= MAXIMUM_INSTANCES:
        raise InvalidField(field, f"{count} is out of range: 0 to {MAXIMUM_INSTANCES}.")
    return count
