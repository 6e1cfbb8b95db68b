"""What does a manifest, an index or a config say, and may we believe its shape?

Pure: bytes in, frozen values out, ImageRefused for whatever doesn't fit. Knows the OCI image specification 1.1 and
Docker's schema 2; everything else (schema 1, artifacts, encrypted or foreign layers) is refused by name.
"""

from __future__ import annotations

import hashlib
import json
import platform as host
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from shellwego.core.errors import ImageRefused
from shellwego.drivers.images.limits import ImageLimits
from shellwego.drivers.images.port import ImageConfig
from shellwego.drivers.images.reference import is_digest

OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"

INDEX_TYPES: Final = frozenset({OCI_INDEX, DOCKER_LIST})
MANIFEST_TYPES: Final = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
CONFIG_TYPES: Final = frozenset({OCI_CONFIG, DOCKER_CONFIG})
_RETIRED_TYPES: Final = (
    "application/vnd.docker.distribution.manifest.v1",
    "application/vnd.docker.distribution.manifest.v1+json",
)
ACCEPTED: Final = (OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST)


class Compression(StrEnum):
    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"


LAYER_TYPES: Final[Mapping[str, Compression]] = {
    "application/vnd.oci.image.layer.v1.tar": Compression.NONE,
    "application/vnd.oci.image.layer.v1.tar+gzip": Compression.GZIP,
    "application/vnd.oci.image.layer.v1.tar+zstd": Compression.ZSTD,
    "application/vnd.docker.image.rootfs.diff.tar": Compression.NONE,
    "application/vnd.docker.image.rootfs.diff.tar.gzip": Compression.GZIP,
    "application/vnd.docker.image.rootfs.diff.tar.zstd": Compression.ZSTD,
}


@dataclass(frozen=True, slots=True)
class Platform:
    """What a node runs, in the words of the OCI specification (Go's GOOS and GOARCH)."""

    os: str = "linux"
    architecture: str = "amd64"
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


def host_platform(machine: str | None = None) -> Platform:
    """This node's platform."""
    match machine or host.machine():
        case "x86_64" | "amd64":
            return Platform("linux", "amd64")
        case "aarch64" | "arm64":
            return Platform("linux", "arm64", "v8")
        case "armv7l":
            return Platform("linux", "arm", "v7")
        case other:
            return Platform("linux", other)


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Names content by type, digest and size, before we have it."""

    media_type: str
    digest: str
    size: int
    platform: Platform | None = None

    @property
    def hex(self) -> str:
        return self.digest.removeprefix("sha256:")


@dataclass(frozen=True, slots=True)
class Index:
    manifests: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    config: Descriptor
    layers: tuple[Descriptor, ...]

    @property
    def size_bytes(self) -> int:
        return self.config.size + sum(layer.size for layer in self.layers)


@dataclass(frozen=True, slots=True)
class Config:
    """The config blob: what we hand on, and what the unpacked layers must hash to."""

    image: ImageConfig
    diff_ids: tuple[str, ...]

    @property
    def chain(self) -> str:
        """Hex of the OCI chain id of the top layer: it names the unpacked root file system."""
        return chain_id(self.diff_ids)

    @property
    def chains(self) -> tuple[str, ...]:
        """The chain of the first n layers at place n, up to that of them all."""
        return chain_ids(self.diff_ids)


def digest_of(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def chain_id(diff_ids: Sequence[str]) -> str:
    """OCI image-spec, config.md, "Layer ChainID", as hex. An image without layers has the digest of nothing."""
    return chain_ids(diff_ids)[-1]


def chain_ids(diff_ids: Sequence[str]) -> tuple[str, ...]:
    """That of the first n layers at place n."""
    chains = [digest_of(b"")]
    for count, diff_id in enumerate(diff_ids):
        chains.append(digest_of(f"{chains[-1]} {diff_id}".encode()) if count else diff_id)
    return tuple(chain.removeprefix("sha256:") for chain in chains)


def parse_manifest(name: str, content: bytes, media_type: str, limits: ImageLimits) -> Manifest | Index:
    """
    Parse a manifest or an index. `media_type` is what the registry or the descriptor calls it, "" if unknown.

    A document that is both (CVE-2021-41190) means different things to different readers, so it means nothing here.
    """
    document = _object(name, "manifest", content, limits.manifest_bytes)
    declared = document.get("mediaType")
    if declared is not None and not isinstance(declared, str):
        raise ImageRefused(name, "its manifest's mediaType is not a string.")
    known = INDEX_TYPES | MANIFEST_TYPES
    if declared and media_type in known and declared != media_type:
        raise ImageRefused(name, f"its manifest is served as {media_type} but calls itself {declared}.")
    kind = declared or media_type
    if document.get("schemaVersion") != 2 or kind.removesuffix("+prettyjws") in _RETIRED_TYPES:
        raise ImageRefused(name, "its manifest is of Docker's retired schema 1. Push it again with a current tool.")
    if "manifests" in document and ("layers" in document or "config" in document):
        raise ImageRefused(name, "its manifest is an image and an index at once.")
    if kind not in known:
        # Static file servers and old proxies know no type; then the shape decides, which is unambiguous by now.
        if declared or not _is_vague(media_type):
            raise ImageRefused(name, f"its manifest has the unknown media type {kind!r}.")
        kind = OCI_INDEX if "manifests" in document else OCI_MANIFEST
    if kind in INDEX_TYPES:
        return Index(tuple(_descriptor(name, entry) for entry in _list(name, document, "manifests")))
    return _parse_image_manifest(name, document, limits)


def _is_vague(media_type: str) -> bool:
    return media_type in ("", "application/json", "text/plain", "application/octet-stream")


def _parse_image_manifest(name: str, document: Mapping[str, Any], limits: ImageLimits) -> Manifest:
    config = _descriptor(name, document.get("config"))
    artifact = document.get("artifactType")
    if config.media_type not in CONFIG_TYPES or artifact:
        what = artifact or config.media_type
        raise ImageRefused(name, f"it is no container image: its config is of type {what!r}.")
    if config.size > limits.config_bytes:
        raise ImageRefused(name, f"its config has {config.size} bytes; the limit is {limits.config_bytes}.")
    layers = tuple(_descriptor(name, entry) for entry in _list(name, document, "layers"))
    if len(layers) > limits.layers:
        raise ImageRefused(name, f"it has {len(layers)} layers; the limit is {limits.layers}.")
    for layer in layers:
        if layer.media_type not in LAYER_TYPES:
            raise ImageRefused(name, f"layer {layer.digest} has the unknown media type {layer.media_type!r}.")
        if layer.size > limits.layer_bytes:
            raise ImageRefused(name, f"layer {layer.digest} has {layer.size} bytes; the limit is {limits.layer_bytes}.")
    manifest = Manifest(config, layers)
    if manifest.size_bytes > limits.image_bytes:
        raise ImageRefused(name, f"it has {manifest.size_bytes} bytes; the limit is {limits.image_bytes}.")
    sizes = {config.digest: config.size}
    for layer in layers:
        if sizes.setdefault(layer.digest, layer.size) != layer.size:
            raise ImageRefused(name, f"it gives {layer.digest} two different sizes.")
    return manifest


def choose_platform(name: str, index: Index, wanted: Platform) -> Descriptor:
    """The manifest of an index for this node. Raises ImageRefused, naming what there is, when there is none."""
    real = [entry for entry in index.manifests if not is_attestation(entry)]
    for variant in _acceptable_variants(wanted):
        for entry in real:
            here = entry.platform
            if here and (here.os, here.architecture, here.variant) == (wanted.os, wanted.architecture, variant):
                return entry
    if len(real) == 1 and real[0].platform is None:
        return real[0]  # One nameless image: its config still has to name our platform.
    there = ", ".join(sorted({str(entry.platform) for entry in real if entry.platform})[:20]) or "nothing"
    raise ImageRefused(name, f"it has no variant for {wanted}, only for {there}.")


def is_attestation(entry: Descriptor) -> bool:
    """BuildKit stores provenance beside the images as manifests for unknown/unknown."""
    return entry.platform is not None and entry.platform.os == "unknown"


def _acceptable_variants(wanted: Platform) -> tuple[str, ...]:
    match wanted.architecture, wanted.variant:
        case "arm64", _:
            return ("v8", "")
        case "arm", "v7":
            return ("v7", "v6", "v5", "")
        case "amd64", "":
            return ("", "v1")
        case _, "":
            return ("",)
        case _, variant:
            return (variant, "")


def parse_config(name: str, content: bytes, manifest: Manifest, platform: Platform, limits: ImageLimits) -> Config:
    """Parse the config blob of an image and check that it fits its manifest and this node."""
    document = _object(name, "config", content, limits.config_bytes)
    found = Platform(_text(name, document, "os") or "linux", _text(name, document, "architecture"))
    if found.architecture and (found.os, found.architecture) != (platform.os, platform.architecture):
        raise ImageRefused(name, f"it is made for {found}; this node is {platform}.")
    rootfs = document.get("rootfs")
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(diff_ids, list) or not all(isinstance(entry, str) and is_digest(entry) for entry in diff_ids):
        raise ImageRefused(name, "its config lists no sha256 diff_ids.")
    if len(diff_ids) != len(manifest.layers):
        raise ImageRefused(name, f"its config lists {len(diff_ids)} layers, its manifest {len(manifest.layers)}.")
    settings = document.get("config")
    if settings is not None and not isinstance(settings, dict):
        raise ImageRefused(name, "its config's 'config' is no object.")
    return Config(_image_config(name, settings or {}), tuple(diff_ids))


def _image_config(name: str, settings: Mapping[str, Any]) -> ImageConfig:
    env = dict(entry.split("=", 1) for entry in _strings(name, settings, "Env") if entry.find("=") > 0)
    ports = settings.get("ExposedPorts") or {}
    labels = settings.get("Labels") or {}
    if not isinstance(ports, dict) or not isinstance(labels, dict):
        raise ImageRefused(name, "its config's ExposedPorts and Labels must be objects.")
    return ImageConfig(
        entrypoint=_strings(name, settings, "Entrypoint"),
        cmd=_strings(name, settings, "Cmd"),
        env=env,
        working_dir=_text(name, settings, "WorkingDir") or "/",
        user=_text(name, settings, "User"),
        exposed_ports=tuple(port for port in map(_tcp_port, ports) if port),
        stop_signal=_text(name, settings, "StopSignal"),
        labels={key: value for key, value in labels.items() if isinstance(value, str)},
    )


def _tcp_port(text: str) -> int | None:
    number, _, protocol = text.partition("/")
    if protocol not in ("", "tcp") or not number.isascii() or not number.isdigit():
        return None
    return int(number) if len(number) <= 5 and 0 < int(number) < 65536 else None


def _object(name: str, what: str, content: bytes, limit: int) -> dict[str, Any]:
    if len(content) > limit:
        raise ImageRefused(name, f"its {what} has {len(content)} bytes; the limit is {limit}.")
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ImageRefused(name, f"its {what} is not JSON: {type(error).__name__}.") from error
    if not isinstance(document, dict):
        raise ImageRefused(name, f"its {what} is no JSON object.")
    return document


def _list(name: str, document: Mapping[str, Any], key: str) -> list[Any]:
    value = document.get(key)
    if not isinstance(value, list):
        raise ImageRefused(name, f"its manifest's {key!r} is no list.")
    return value


def _text(name: str, document: Mapping[str, Any], key: str) -> str:
    value = document.get(key)
    if value is None:
        return ""
    if not isinstance(value, str) or "\0" in value:
        raise ImageRefused(name, f"its config's {key!r} is no text.")
    return value


def _strings(name: str, document: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = document.get(key)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str) and "\0" not in item for item in value):
        raise ImageRefused(name, f"its config's {key!r} is no list of texts.")
    return tuple(value)


def _descriptor(name: str, value: object) -> Descriptor:
    if not isinstance(value, dict):
        raise ImageRefused(name, "its manifest has a descriptor that is no object.")
    digest, size, media_type = value.get("digest"), value.get("size"), value.get("mediaType")
    if not isinstance(digest, str) or not is_digest(digest):
        raise ImageRefused(name, f"its manifest has a digest that is not sha256: {str(digest)[:80]!r}.")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise ImageRefused(name, f"its manifest has a size that is none: {str(size)[:40]!r}.")
    if not isinstance(media_type, str):
        raise ImageRefused(name, "its manifest has a descriptor without a media type.")
    return Descriptor(media_type, digest, size, _platform(value.get("platform")))


def _platform(value: object) -> Platform | None:
    if not isinstance(value, dict):
        return None
    parts = [value.get(key) or "" for key in ("os", "architecture", "variant")]
    return Platform(*parts) if all(isinstance(part, str) for part in parts) else None
