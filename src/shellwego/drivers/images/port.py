"""What must the image store and the builder do?

The store keeps blobs by digest, shared by every instance and organisation of a node, and unpacked root file systems
by the digests of their layers. A reference is `registry/repository:tag`, `...@sha256:...`, or plain `sha256:...` for
an image that was built here or imported. Nothing that failed its digest, size or type check ever has a name there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from shellwego.core.ids import DeploymentId, OrganisationId


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What an image says of itself (OCI image-spec, config.md)."""

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    working_dir: str = "/"
    user: str = ""
    exposed_ports: tuple[int, ...] = ()
    stop_signal: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Resolved:
    """`reference` names the image by digest, so it means the same for ever."""

    reference: str
    digest: str
    config: ImageConfig
    size_bytes: int


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image that is here, unpacked. `rootfs` is read-only by agreement and shared."""

    digest: str
    rootfs: Path
    config: ImageConfig


@dataclass(frozen=True, slots=True)
class Credentials:
    username: str
    password: str


@dataclass(frozen=True, slots=True)
class PullProgress:
    """`layer` is a digest; bytes count what has arrived of it."""

    layer: str
    done_bytes: int
    total_bytes: int


SETTLE_SECONDS = 10.0


class ImageStore(Protocol):
    """Raises ImageNotFound, ImageRefused, RegistryUnavailable, DiskFull."""

    async def resolve(self, reference: str, *, credentials: Credentials | None = None) -> Resolved:
        """What the reference means now. Reads manifest and config, no layer."""
        ...

    async def find(self, reference: str) -> StoredImage | None:
        """The image if it is here and unpacked, and the reference can't mean another by now. Asks no registry."""
        ...

    async def ensure(
        self,
        reference: str,
        *,
        credentials: Credentials | None = None,
        on_progress: Callable[[PullProgress], None] = lambda _: None,
    ) -> StoredImage:
        """The image is here and unpacked when this returns; a half-done pull goes on where it stopped."""
        ...

    async def import_layout(self, layout: Path, *, name: str | None = None) -> Resolved:
        """Take in the one image of an OCI image layout directory; `name` makes it findable as `name` too."""
        ...

    async def export_layout(self, reference: str, directory: Path) -> None:
        """Write the image as an OCI image layout (hard links where possible), for a builder to start from."""
        ...

    async def settle(self) -> None:
        """
        Bring to disk what this process unpacked a while ago: call it every SETTLE_SECONDS. Until then an image is
        unpacked again after the disk was mounted anew. Raises OSError when the disk didn't keep it.
        """
        ...

    async def get_ahead(self) -> None:
        """Do what the next images will need, as far as that can be guessed: for when nothing waits."""
        ...

    async def collect_garbage(self, keep: Collection[str]) -> int:
        """Remove all that no digest in `keep`, no name and no unfinished pull needs. Bytes freed."""
        ...


@dataclass(frozen=True, slots=True)
class BuildLimits:
    memory_mib: int = 2048
    cpu_millis: int = 1000
    disk_mib: int = 10 * 1024
    seconds: int = 1800


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """
    `context` is the unpacked source. `dockerfile` is its text: the source's own, or one we wrote for it.
    `bases` maps an image name as the Dockerfile writes it to the digest of a stored image that stands in for it.
    `secrets` are readable by `RUN --mount=type=secret,id=...` and reach neither log nor layer.
    """

    id: DeploymentId
    organisation: OrganisationId
    context: Path
    dockerfile: str
    bases: Mapping[str, str] = field(default_factory=dict)
    build_args: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, bytes] = field(default_factory=dict)
    target: str | None = None
    trusted: bool = False
    """Steps run under runc instead of gVisor: faster, for code that the operator trusts as their own."""
    no_cache: bool = False
    limits: BuildLimits = field(default_factory=BuildLimits)


class Builder(Protocol):
    async def build(self, request: BuildRequest, *, on_log: Callable[[str], None]) -> Resolved:
        """
        Build, store, and return the image. Log lines arrive as they are printed. Cancelling the caller ends every
        process of the build. Raises BuildFailed (with the last lines), EngineMissing, DiskFull.
        """
        ...

    async def prepare(self, organisation: OrganisationId, *, trusted: bool, limits: BuildLimits) -> None:
        """
        Make ready what the next build of that organisation needs first, unless others are building. `build` would do
        the same: this is for who knows of a build before its source is there. Raises EngineMissing, DiskFull.
        """
        ...

    async def close(self) -> None:
        """End the build daemon and all it started; its cache stays."""
        ...
