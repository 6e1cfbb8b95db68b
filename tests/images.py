"""Where do tests get an OCI image from, without a hub and without an engine?

`busybox_layout` writes a tiny real image (about 1 MB, statically linked shell and tools) as an OCI image layout, in
pure Python. `write_layout` does the same for layers of one's own, hostile ones too: it checks nothing.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER_TAR = "application/vnd.oci.image.layer.v1.tar"
LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer as it travels. `diff_id` is the digest of the tar inside."""

    media_type: str
    blob: bytes
    diff_id: str


def digest_of(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def gzip_layer(tar: bytes) -> Layer:
    return Layer(LAYER_GZIP, gzip.compress(tar, compresslevel=1, mtime=0), digest_of(tar))


def tar_of(
    files: Mapping[str, bytes | str], *, directories: Sequence[str] = (), links: Mapping[str, str] | None = None
) -> bytes:
    """A tar of executable files by path (mode 0755), directories and symbolic links (path to target)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in directories:
            member = tarfile.TarInfo(path)
            member.type, member.mode = tarfile.DIRTYPE, 0o1777 if path.rstrip("/").endswith("tmp") else 0o755
            tar.addfile(member)
        for path, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(path)
            member.mode, member.size = 0o755, len(data)
            tar.addfile(member, io.BytesIO(data))
        for path, target in (links or {}).items():
            member = tarfile.TarInfo(path)
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)
    return out.getvalue()


def write_blob(directory: Path, content: bytes) -> str:
    """Put a blob into a layout and return its digest."""
    digest = digest_of(content)
    path = directory / "blobs" / "sha256" / digest.removeprefix("sha256:")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return digest


def write_layout(
    directory: Path,
    layers: Sequence[Layer],
    *,
    cmd: Sequence[str] = (),
    entrypoint: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    working_dir: str = "",
    user: str = "",
    exposed_ports: Sequence[int] = (),
    stop_signal: str = "",
    labels: Mapping[str, str] | None = None,
    architecture: str = "amd64",
    tag: str = "latest",
) -> Path:
    """Write one image as an OCI image layout into `directory` (made if need be) and return `directory`."""
    settings: dict[str, object] = {
        "Cmd": list(cmd),
        "Entrypoint": list(entrypoint),
        "Env": [f"{name}={value}" for name, value in ({"PATH": DEFAULT_PATH} | dict(env or {})).items()],
        "WorkingDir": working_dir,
        "User": user,
        "ExposedPorts": {f"{port}/tcp": {} for port in exposed_ports},
        "StopSignal": stop_signal,
        "Labels": dict(labels or {}),
    }
    config = {
        "architecture": architecture,
        "os": "linux",
        "config": {key: value for key, value in settings.items() if value},
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
    }
    config_bytes = json.dumps(config).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": write_blob(directory, config_bytes), "size": len(config_bytes)},
        "layers": [
            {"mediaType": layer.media_type, "digest": write_blob(directory, layer.blob), "size": len(layer.blob)}
            for layer in layers
        ],
    }
    manifest_bytes = json.dumps(manifest).encode()
    descriptor = {
        "mediaType": MANIFEST,
        "digest": write_blob(directory, manifest_bytes),
        "size": len(manifest_bytes),
        "platform": {"architecture": architecture, "os": "linux"},
        "annotations": {"org.opencontainers.image.ref.name": tag},
    }
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor]}
    (directory / "index.json").write_text(json.dumps(index))
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return directory


def busybox_tar(*, files: Mapping[str, bytes | str] | None = None) -> bytes:
    """The file tree of the busybox image. `files` are added as executables (scripts, pages), by absolute path."""
    binary = shutil.which("busybox")
    if binary is None:
        raise RuntimeError("busybox-static is not installed: `apt-get install busybox-static`")
    applets = subprocess.run([binary, "--list"], check=True, capture_output=True, text=True).stdout.split()
    contents: dict[str, bytes | str] = {
        "bin/busybox": Path(binary).read_bytes(),
        "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
        "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    }
    extra = {path.lstrip("/"): content for path, content in (files or {}).items()}
    directories = ["bin", "dev", "etc", "home", "proc", "root", "run", "srv", "sys", "tmp", "usr", "usr/bin", "var"]
    for path in extra:
        for parent in reversed(Path(path).parents[:-1]):
            if str(parent) not in directories:
                directories.append(str(parent))
    # The applet that is called busybox would replace the binary by a link to itself.
    links = {f"bin/{applet}": "busybox" for applet in applets if applet != "busybox"}
    return tar_of(contents | extra, directories=directories, links=links)


def busybox_layout(
    directory: Path,
    *,
    cmd: Sequence[str] = ("/bin/sh",),
    entrypoint: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    working_dir: str = "",
    user: str = "",
    exposed_ports: Sequence[int] = (),
    stop_signal: str = "",
    labels: Mapping[str, str] | None = None,
    files: Mapping[str, bytes | str] | None = None,
) -> Path:
    """
    Write an OCI image layout with one busybox image into `directory` and return it.

    A web server, for instance: `busybox_layout(d, cmd=("httpd", "-f", "-p", "8080", "-h", "/srv"),
    files={"/srv/index.html": "hello"})`. Different arguments give different digests; equal ones the same.
    """
    return write_layout(
        directory,
        [gzip_layer(busybox_tar(files=files))],
        cmd=cmd,
        entrypoint=entrypoint,
        env=env,
        working_dir=working_dir,
        user=user,
        exposed_ports=exposed_ports,
        stop_signal=stop_signal,
        labels=labels,
    )
