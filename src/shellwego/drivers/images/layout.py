"""How do images enter and leave as OCI image layouts (image-spec, image-layout.md)?

Reading trusts nothing: a layout is somebody's directory, with symbolic links in it perhaps.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from shellwego.core.errors import ImageNotFound, ImageRefused
from shellwego.drivers.images.blobs import BlobStore, WrongContent, disk_full_as_error, open_regular
from shellwego.drivers.images.limits import ImageLimits
from shellwego.drivers.images.manifest import (
    INDEX_TYPES,
    MANIFEST_TYPES,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Index,
    Platform,
    choose_platform,
    digest_of,
    is_attestation,
    parse_config,
    parse_manifest,
)
from shellwego.drivers.images.records import Image
from shellwego.kit.files import replace_file

_NESTED_INDEXES = 3
_LAYOUT_FILE = b'{"imageLayoutVersion": "1.0.0"}'


def read_layout(layout: Path, platform: Platform, limits: ImageLimits) -> Image:
    """The one image of the layout for this platform. Raises ImageNotFound, ImageRefused."""
    name = layout.name
    try:
        top = _read(layout / "index.json", limits.manifest_bytes)
    except FileNotFoundError:
        raise ImageNotFound(name, "the directory holds no OCI image layout") from None
    index = parse_manifest(name, top, OCI_INDEX, limits)
    if not isinstance(index, Index):
        raise ImageRefused(name, "its index.json is no index.")
    known = MANIFEST_TYPES | INDEX_TYPES
    entries = {e.digest: e for e in index.manifests if e.media_type in known and not is_attestation(e)}
    if not entries:
        raise ImageRefused(name, "its index.json lists no image.")
    here = [e for e in entries.values() if e.platform is None or e.platform.architecture == platform.architecture]
    if len(here) > 1:
        raise ImageRefused(name, f"it holds {len(here)} images; one is expected.")
    chosen = here[0] if here else choose_platform(name, index, platform)
    return read_image(
        name, chosen, platform, limits, lambda blob, limit: read_blob(name, layout, blob, limit), from_index=()
    )


def read_image(
    name: str,
    top: Descriptor,
    platform: Platform,
    limits: ImageLimits,
    read: Callable[[Descriptor, int], bytes],
    *,
    from_index: tuple[bytes, ...],
) -> Image:
    """Follow a descriptor down to the image for this platform, reading verified blobs with `read`."""
    indexes = list(from_index)
    for _ in range(_NESTED_INDEXES):
        content = read(top, limits.manifest_bytes)
        found = parse_manifest(name, content, top.media_type, limits)
        if not isinstance(found, Index):
            config_bytes = read(found.config, limits.config_bytes)
            config = parse_config(name, config_bytes, found, platform, limits)
            return Image(top.digest, found, config, content, config_bytes, tuple(indexes))
        indexes.append(content)
        top = choose_platform(name, found, platform)
    raise ImageRefused(name, "its indexes are nested too deep.")


def read_blob(name: str, layout: Path, blob: Descriptor, limit: int) -> bytes:
    """A small blob of a layout, verified."""
    try:
        content = _read(blob_path(layout, blob), limit)
    except FileNotFoundError:
        raise ImageRefused(name, f"its blob {blob.digest} is missing.") from None
    if len(content) != blob.size or digest_of(content) != blob.digest:
        raise ImageRefused(name, f"its blob {blob.digest} holds something else.")
    return content


def take_layer(name: str, layout: Path, blob: Descriptor, blobs: BlobStore) -> None:
    """Move a layer into the store, verified. The caller holds the lock of its digest."""
    try:
        blobs.link_or_copy_in(blob, blob_path(layout, blob))
    except FileNotFoundError:
        raise ImageRefused(name, f"its blob {blob.digest} is missing.") from None
    except WrongContent:
        raise ImageRefused(name, f"its blob {blob.digest} holds something else.") from None


def write_layout(image: Image, directory: Path, blobs: BlobStore, *, tag: str) -> None:
    """Write the image as a layout. Raises WrongContent for a damaged layer, DiskFull."""
    with disk_full_as_error("exporting an image"):
        (directory / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
        manifest = Descriptor(OCI_MANIFEST, image.digest, len(image.manifest_bytes))
        for layer in {layer.digest: layer for layer in image.manifest.layers}.values():
            blobs.link_or_copy_out(layer, blob_path(directory, layer))
        blob_path(directory, image.manifest.config).write_bytes(image.config_bytes)
        blob_path(directory, manifest).write_bytes(image.manifest_bytes)
        media_type = json.loads(image.manifest_bytes).get("mediaType", OCI_MANIFEST)
        entry = {
            "mediaType": media_type,
            "digest": image.digest,
            "size": len(image.manifest_bytes),
            "annotations": {"org.opencontainers.image.ref.name": tag},
        }
        (directory / "oci-layout").write_bytes(_LAYOUT_FILE)
        # Last: a reader that finds the index finds everything.
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}
        replace_file(directory / "index.json", json.dumps(index).encode(), mode=0o644)


def blob_path(layout: Path, blob: Descriptor) -> Path:
    return layout / "blobs" / "sha256" / blob.hex


def _read(path: Path, limit: int) -> bytes:
    with open_regular(path) as (file, _), open(file, "rb", closefd=False) as reader:
        return reader.read(limit + 1)
