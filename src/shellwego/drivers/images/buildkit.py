"""Which files and command lines does BuildKit get from us?

Pure: settings in, text and argument lists out. `buildkit_lane` runs the daemon, `builder` runs the builds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from shellwego.core.dockerfiles import familiar_name
from shellwego.core.errors import InvalidField
from shellwego.kit.commands import Command

_BUILD_ARGUMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")

_CONTROL_ARGUMENTS = "BUILDKIT_"
"""Build arguments with this prefix steer BuildKit itself: BUILDKIT_SYNTAX would fetch and run another frontend, and
BUILDKIT_CACHE_MOUNT_NS would choose whose cache is seen."""

_ALLOWED_CONTROL_ARGUMENTS = frozenset({"BUILDKIT_INLINE_CACHE", "BUILDKIT_DOCKERFILE_CHECK"})


@dataclass(frozen=True, slots=True)
class StandIn:
    """`name`, as the Dockerfile writes it, means the image `digest` in the OCI layout `layout`."""

    name: str
    layout: Path
    digest: str


def daemon_settings(*, root: Path, step_program: Path, cache_mib: int) -> str:
    """buildkitd.toml. Paths are quoted as JSON strings, which TOML's basic strings are a superset of."""
    return "\n".join(
        (
            f"root = {json.dumps(str(root))}",
            "insecure-entitlements = []",
            "[log]",
            '  level = "warn"',
            "[cdi]",
            "  disabled = true",
            "[worker.containerd]",
            "  enabled = false",
            "[worker.oci]",
            "  enabled = true",
            '  snapshotter = "overlayfs"',
            '  networkMode = "host"',  # Of the namespace that the daemon stands in.
            f"  binary = {json.dumps(str(step_program))}",
            "  gc = true",
            "  reservedSpace = 0",
            f'  maxUsedSpace = "{cache_mib}MB"',
            "[[worker.oci.gcpolicy]]",
            "  all = true",
            f'  maxUsedSpace = "{cache_mib}MB"',
            '[frontend."gateway.v0"]',
            "  enabled = false",  # No frontend but the one inside: a stranger's would run with our cache.
            "[history]",
            "  maxEntries = 1",
            "",
        )
    )


def daemon_command(buildkitd: Path, *, settings: Path, socket: Path, otel_socket: Path) -> Command:
    return (
        str(buildkitd),
        "--config",
        str(settings),
        "--addr",
        f"unix://{socket}",
        "--otel-socket-path",
        str(otel_socket),
    )


def prune_command(buildctl: Path, *, socket: Path, cache_mib: int) -> Command:
    """Throw away what was unused for the longest until the cache fits."""
    return (str(buildctl), "--addr", f"unix://{socket}", "prune", "--all", f"--keep-storage={cache_mib}")


def forget_command(buildctl: Path, *, socket: Path) -> Command:
    """Throw away what the daemon remembers of builds that ended, their output above all."""
    return (str(buildctl), "--addr", f"unix://{socket}", "prune-histories")


def build_command(
    buildctl: Path,
    *,
    socket: Path,
    context: Path,
    dockerfile_directory: Path,
    output: Path,
    stand_ins: tuple[StandIn, ...] = (),
    build_args: Mapping[str, str] | None = None,
    secrets: Mapping[str, int] | None = None,
    target: str | None = None,
    no_cache: bool = False,
) -> Command:
    """One build. `secrets` maps an id to a descriptor that the client inherits: a secret of a build is never a file."""
    arguments: list[str] = [
        str(buildctl),
        "--addr",
        f"unix://{socket}",
        "--log-format=json",  # What the client says about itself can be told from a reason to fail.
        "build",
        "--progress=rawjson",
        "--frontend=dockerfile.v0",
        f"--local=context={context}",
        f"--local=dockerfile={dockerfile_directory}",
        "--opt=filename=Dockerfile",
        f"--output={csv_fields('type=oci', 'tar=false', 'compression=zstd', f'dest={output}')}",
    ]
    for place, base in enumerate(stand_ins):
        arguments.append(f"--oci-layout=base{place}={base.layout}")
        arguments.append(f"--opt=context:{familiar_name(base.name)}=oci-layout://base{place}@{base.digest}")
    for key, value in (build_args or {}).items():
        arguments.append(f"--opt=build-arg:{key}={value}")
    for identifier, descriptor in (secrets or {}).items():
        arguments.append("--secret=" + csv_fields(f"id={identifier}", f"src=/proc/self/fd/{descriptor}"))
    if target is not None:
        arguments.append(f"--opt=target={target}")
    if no_cache:
        arguments.append("--no-cache")
    return tuple(arguments)


def check_build_args(build_args: Mapping[str, str]) -> None:
    """Raises InvalidField for a build argument that would steer BuildKit itself, or that is none."""
    for key, value in build_args.items():
        if _BUILD_ARGUMENT.fullmatch(key) is None:
            raise InvalidField(f"build.args.{key[:60]}", "is not a name. Use letters, digits and '_', no digit first.")
        if key.startswith(_CONTROL_ARGUMENTS) and key not in _ALLOWED_CONTROL_ARGUMENTS:
            raise InvalidField(f"build.args.{key}", "is not a build argument: it would steer the builder itself.")
        if "\0" in value:
            raise InvalidField(f"build.args.{key}", "holds a NUL character.")


def csv_fields(*fields: str) -> str:
    """One CSV record as buildctl reads them: a path may hold a comma."""
    return ",".join('"' + f.replace('"', '""') + '"' if any(c in f for c in ',"\n') else f for f in fields)
