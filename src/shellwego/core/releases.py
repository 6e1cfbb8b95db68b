"""What exactly runs when a release runs?

Release = image digest + configuration + processes + health + resources. Immutable, numbered v1, v2, ... within its
app. A rollback is a new deployment of an old release, so nothing about a release ever changes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from shellwego.core.apps import WEB, Resources
from shellwego.core.health import HealthCheck
from shellwego.core.ids import AppId, ReleaseId


@dataclass(frozen=True, slots=True)
class ProcessType:
    """
    One way to start the image. An empty `command` means the image's own entrypoint and cmd; `shell` commands come
    from a Procfile or shellwego.toml and are run as `/bin/sh -c` in the image, as every peer does.
    """

    name: str = WEB
    command: tuple[str, ...] = ()
    health: HealthCheck = field(default_factory=HealthCheck)
    resources: Resources = field(default_factory=Resources)


class RuntimeClass:
    """Names of the runtime drivers a release may ask for; what an organisation may use is the operator's choice."""

    GVISOR = "gvisor"
    GVISOR_HOST_NETWORK = "gvisor-host-network"  # gVisor with the kernel's sockets of the instance's own namespace
    RUNC = "runc"


@dataclass(frozen=True, slots=True)
class Release:
    """`image` is a full reference with its digest (`registry/repo@sha256:...`, or `sha256:...` for a built one)."""

    id: ReleaseId
    app: AppId
    number: int
    image: str
    processes: tuple[ProcessType, ...]
    port: int = 8080
    runtime: str = RuntimeClass.GVISOR
    grace_seconds: float = 10.0

    @property
    def label(self) -> str:
        return f"v{self.number}"
