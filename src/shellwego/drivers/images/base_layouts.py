"""How does a tar of files become an image, and which Debian packages are in one?

Writes and relabels OCI image layouts (image-spec, image-layout.md) of our own making: nothing here meets a stranger's
image, for which `archive` and `manifest` have the rules.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import io
import json
import platform
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

PACKAGES_LABEL = "org.shellwego.packages"
"""`name=version` of every Debian package in the image, sorted, separated by spaces."""

_CONFIG = "application/vnd.oci.image.config.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_INDEX = "application/vnd.oci.image.index.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+zstd"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_STATUS = "var/lib/dpkg/status"


def write_base(tar: Path, layout: Path, *, created: int, labels: Mapping[str, str]) -> None:
    """An image of one layer, the files of `tar`. Takes the tar away: a base is large."""
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    packages = installed_packages(_read_status(tar) or "")
    labels = {f"org.shellwego.{key}": value for key, value in labels.items()}
    if packages:
        labels[PACKAGES_LABEL] = packages
    diff = hashlib.sha256()
    whole = hashlib.sha256()
    blob = layout / "layer"
    compressor = zstandard.ZstdCompressor(level=6, threads=0)
    with tar.open("rb") as source, blob.open("wb") as target:
        for piece in compressor.read_to_iter(_Hashed(source, diff)):  # type: ignore[arg-type]  # it only reads
            whole.update(piece)
            target.write(piece)
    tar.unlink()
    size = blob.stat().st_size
    blob.rename(blobs / whole.hexdigest())
    moment = dt.datetime.fromtimestamp(created, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    config = {
        "created": moment,
        "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {
            "Env": [f"PATH={_PATH}"],
            "Cmd": ["/bin/sh"],
            "Labels": labels,
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{diff.hexdigest()}"]},
        "history": [{"created": moment, "created_by": "mmdebstrap"}],
    }
    layers = [{"mediaType": _LAYER, "digest": f"sha256:{whole.hexdigest()}", "size": size}]
    _write_index(layout, config, {"layers": layers})


def label_packages(layout: Path) -> None:
    """Write on the image which packages are in it: what dpkg's database in its uppermost layer that has one says."""
    manifest = _manifest(layout)
    config = json.loads(_blob(layout, manifest["config"]["digest"]).read_bytes())
    for layer in reversed(manifest["layers"]):
        status = _read_status(_blob(layout, layer["digest"]))
        if status is not None:
            config.setdefault("config", {}).setdefault("Labels", {})
            config["config"]["Labels"] = {
                **(config["config"]["Labels"] or {}),
                PACKAGES_LABEL: installed_packages(status),
            }
            break
    _write_index(layout, config, manifest)


def installed_packages(status: str) -> str:
    """`name=version ...` of what dpkg's status file calls installed. Pure."""
    found = []
    for paragraph in status.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if ": " in line and line[0] != " ")
        if fields.get("Status", "").endswith(" installed"):
            found.append(f"{fields['Package']}={fields['Version']}")
    return " ".join(sorted(found))


def _manifest(layout: Path) -> dict[str, Any]:
    index = json.loads((layout / "index.json").read_bytes())
    found: dict[str, Any] = json.loads(_blob(layout, index["manifests"][0]["digest"]).read_bytes())
    return found


def _blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / "sha256" / digest.removeprefix("sha256:")


def _write_blob(layout: Path, content: bytes) -> tuple[str, int]:
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    path = _blob(layout, digest)
    path.unlink(missing_ok=True)  # It may be a hard link into the store, which is never written through.
    path.write_bytes(content)
    return digest, len(content)


def _write_index(layout: Path, config: dict[str, Any], manifest: dict[str, Any]) -> None:
    digest, size = _write_blob(layout, json.dumps(config, sort_keys=True).encode())
    whole = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": {"mediaType": _CONFIG, "digest": digest, "size": size},
        "layers": manifest["layers"],
    }
    digest, size = _write_blob(layout, json.dumps(whole, sort_keys=True).encode())
    entry = {
        "mediaType": _MANIFEST,
        "digest": digest,
        "size": size,
        "platform": {"os": "linux", "architecture": config["architecture"]},
    }
    index = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": [entry]}
    for name, content in (("index.json", json.dumps(index)), ("oci-layout", '{"imageLayoutVersion": "1.0.0"}')):
        (layout / name).unlink(missing_ok=True)
        (layout / name).write_text(content)
    kept = {digest, whole["config"]["digest"], *(layer["digest"] for layer in manifest["layers"])}
    for blob in (layout / "blobs" / "sha256").iterdir():
        if f"sha256:{blob.name}" not in kept:
            blob.unlink()
    shutil.rmtree(layout / "ingest", ignore_errors=True)


def _read_status(path: Path) -> str | None:
    """dpkg's database in a layer, plain or compressed, or None."""
    with path.open("rb") as file:
        head = file.read(4)
        file.seek(0)
        stream: BinaryIO = file
        if head == b"\x28\xb5\x2f\xfd":
            stream = io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(file))
        with tarfile.open(fileobj=stream, mode="r|gz" if head[:2] == b"\x1f\x8b" else "r|") as tar:
            for member in tar:
                if member.isfile() and member.name.removeprefix("./").lstrip("/") == _STATUS:
                    content = tar.extractfile(member)
                    return content.read().decode() if content is not None else None
    return None


class _Hashed:
    """A file that is hashed as it is read."""

    def __init__(self, file: BinaryIO, into: Any) -> None:
        self._file, self._into = file, into

    def read(self, size: int = -1) -> bytes:
        piece = self._file.read(size)
        self._into.update(piece)
        return piece
