"""What exactly runs when a release runs?

Release = image digest + configuration + processes + health + resources. Immutable, numbered v1, v2, ... within its
app. A rollback is a new deployment of an old release, so nothing about a release ever changes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from shellwego.core.apps import WEB, Resources
from shellwego.core.deployments import DeploymentState
from shellwego.core.health import HealthCheck
from shellwego.core.ids import AppId, ReleaseId

KEPT_RELEASES = 10
"""The images of so many of an app's newest releases are kept for a rollback. What was built exists nowhere else."""


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


class ReleaseState(StrEnum):
    """What became of a release, by the deployments of it."""

    LIVE = "live"  # the app's current one
    DEPLOYING = "deploying"  # on its way, for the first time or again
    REPLACED = "replaced"  # was live; a rollback can bring it back
    FAILED = "failed"  # its only deployments never came to their end
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"  # a newer deployment took over before it was live

    @classmethod
    def of(cls, *, current: bool, ran_well: bool, newest: DeploymentState | None) -> ReleaseState:
        """From whether it is current, whether a deployment of it ever succeeded, and how the newest of them stands."""
        if current:
            return cls.LIVE
        if newest is not None and not newest.is_terminal:
            return cls.DEPLOYING
        if ran_well or newest is None:  # None: the deployment is no longer kept.
            return cls.REPLACED
        return cls(newest.value)


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
