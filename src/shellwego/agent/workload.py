"""What exactly does a runtime get to start for an instance?

A `Workload` from a spec, a stored image and a place in the network: pure but for reading two files of the image. The
image's file system is a stranger's: a link in it may point anywhere, so paths are resolved inside it and nowhere else.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from ipaddress import IPv4Address
from pathlib import Path, PurePosixPath

from shellwego.core.apps import Resources
from shellwego.core.errors import StartFailed
from shellwego.core.ids import InstanceId
from shellwego.core.releases import RuntimeClass
from shellwego.drivers.images.port import ImageConfig, StoredImage
from shellwego.drivers.network.port import Attachment
from shellwego.drivers.runtime.port import Workload
from shellwego.protocol.messages import InstanceSpec

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CA_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Alpine
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora and its kin
    "/etc/ssl/ca-bundle.pem",  # openSUSE
    "/etc/ssl/cert.pem",  # Alpine's other name
)
# Libraries that bring certificates of their own look here first.
CA_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "CURL_CA_BUNDLE")
_MOST_BYTES = 4 << 20
_MOST_LINKS = 40


def make_workload(
    spec: InstanceSpec,
    image: StoredImage,
    attachment: Attachment,
    *,
    nameservers: Collection[IPv4Address],
    log_path: Path,
    extra_ca: str = "",
) -> Workload:
    """Raises StartFailed when the spec and its image don't say what to run."""
    args = tuple(spec.command) or (*image.config.entrypoint, *image.config.cmd)
    if not args:
        raise StartFailed(
            "The image names no command, and neither does the release. Add CMD to the Dockerfile or give a command."
        )
    hostname = f"{spec.app_name}-{spec.id.removeprefix('ins_')[:6]}"[:63]
    files = {
        "/etc/resolv.conf": "".join(f"nameserver {server}\n" for server in nameservers).encode(),
        "/etc/hosts": f"127.0.0.1\tlocalhost\n::1\tlocalhost\n{attachment.address}\t{hostname}\n".encode(),
        "/etc/hostname": f"{hostname}\n".encode(),
    }
    ca_files = _ca_files(image.rootfs, extra_ca) if extra_ca else {}
    return Workload(
        id=InstanceId(spec.id),
        rootfs=image.rootfs,
        args=args,
        env=_environment(spec, image, ca_bundle=next(iter(ca_files), None)),
        network_namespace=attachment.namespace,
        log_path=log_path,
        resources=Resources(
            memory_mib=spec.memory_mib, cpu_millis=spec.cpu_millis, pids=spec.pids, disk_mib=spec.disk_mib
        ),
        cwd=image.config.working_dir or "/",
        user=image.config.user or "0:0",
        hostname=hostname,
        files=files | ca_files,
        host_sockets=spec.runtime == RuntimeClass.GVISOR_HOST_NETWORK,
    )


def find_home(config: ImageConfig, rootfs: Path) -> str:
    """The home directory of the image's user, as its passwd file has it; what login(1) would set HOME to."""
    user = config.user.partition(":")[0] or "0"
    for line in read_inside(rootfs, "/etc/passwd").decode(errors="replace").splitlines():
        fields = line.split(":")
        if len(fields) >= 6 and user in (fields[0], fields[2]) and fields[5].startswith("/"):
            return fields[5]
    return "/root" if user in ("0", "root") else "/"


def read_inside(rootfs: Path, path: str) -> bytes:
    """
    A regular file of an image, b"" when there is none or it is huge. Links are followed as the sandbox would: absolute
    ones begin at the image's root, and `..` never leaves it. Nobody writes to a stored image, so nothing can change
    between the look and the read.
    """
    rest = list(reversed(PurePosixPath(path).parts[1:]))
    inside: list[str] = []
    links = 0
    while rest:
        part = rest.pop()
        if part == "..":
            del inside[-1:]
            continue
        place = rootfs.joinpath(*inside, part)
        try:
            target = place.readlink() if place.is_symlink() else None
        except OSError:
            return b""
        if target is None:
            inside.append(part)
            continue
        links += 1
        if links > _MOST_LINKS:
            return b""
        if target.is_absolute():
            inside.clear()
        rest.extend(reversed([part for part in target.parts if part != "/"]))
    try:
        descriptor = os.open(rootfs.joinpath(*inside), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return b""
    with os.fdopen(descriptor, "rb") as file:
        content = file.read(_MOST_BYTES + 1)
    return content if len(content) <= _MOST_BYTES else b""


def _environment(spec: InstanceSpec, image: StoredImage, *, ca_bundle: str | None) -> dict[str, str]:
    env = {"PATH": DEFAULT_PATH, "HOME": find_home(image.config, image.rootfs)}
    if ca_bundle is not None:
        env |= dict.fromkeys(CA_VARIABLES, ca_bundle)
    env |= image.config.env
    env |= {
        "SHELLWEGO_APP": spec.app_name,
        "SHELLWEGO_INSTANCE": spec.id,
        "SHELLWEGO_RELEASE": spec.release_label,
        "SHELLWEGO_PROCESS": spec.process,
    }
    if spec.port is not None:
        env["PORT"] = str(spec.port)
    return env | spec.env


def _ca_files(rootfs: Path, extra_ca: str) -> dict[str, bytes]:
    """The image's own bundles with the operator's certificates behind them; one of our own where it has none."""
    ours = extra_ca.strip().encode() + b"\n"
    found = {path: bundle for path in CA_BUNDLES if (bundle := read_inside(rootfs, path))}
    if not found:
        return {CA_BUNDLES[0]: ours}
    return {path: bundle.rstrip(b"\n") + b"\n" + ours for path, bundle in found.items()}
