"""What does the store know about an image besides its bytes?

`images/HEX.json` says where an image came from and what it needs, so that a damaged layer can be fetched again and
garbage can be told from treasure even when a manifest can't be read any more. `names/` holds the names that images
were imported under. `pins/` holds what running pulls and imports are about to need.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shellwego.drivers.images.blobs import disk_full_as_error
from shellwego.drivers.images.locks import locked, try_lock, unlock
from shellwego.drivers.images.manifest import Config, Manifest
from shellwego.kit.files import replace_file


@dataclass(frozen=True, slots=True)
class Image:
    """An image whose manifest and config were read and verified."""

    digest: str
    manifest: Manifest
    config: Config
    manifest_bytes: bytes
    config_bytes: bytes
    indexes: tuple[bytes, ...] = ()
    """The indexes it was chosen from: kept, so that a reference by their digest works without a registry."""

    @property
    def size_bytes(self) -> int:
        return len(self.manifest_bytes) + self.manifest.size_bytes


@dataclass(frozen=True, slots=True)
class Needs:
    """Digests of blobs, and chains (hex) of root file systems: an image's own, and those it may be made from."""

    blobs: frozenset[str] = frozenset()
    chains: frozenset[str] = frozenset()

    def __or__(self, other: Needs) -> Needs:
        return Needs(self.blobs | other.blobs, self.chains | other.chains)


def needs_of(image: Image) -> Needs:
    indexes = (f"sha256:{hashlib.sha256(index).hexdigest()}" for index in image.indexes)
    layers = (layer.digest for layer in image.manifest.layers)
    blobs = frozenset((image.digest, image.manifest.config.digest, *layers, *indexes))
    return Needs(blobs, frozenset(image.config.chains))


@dataclass(frozen=True, slots=True)
class Record:
    digest: str
    needs: Needs
    sources: tuple[str, ...] = ()
    """`registry/repository`, the latest first."""
    seconds_old: float = field(default=0.0, compare=False)
    """Since it was last resolved, ensured or imported."""


class Records:
    """The three directories of small files."""

    def __init__(self, directory: Path) -> None:
        self.images = directory / "images"
        self.names = directory / "names"
        self.pins = directory / "pins"
        self.collecting = directory / "locks" / "collecting"

    def write(self, image: Image, *, source: str | None) -> None:
        """Record that the image is wanted here, now. Raises DiskFull."""
        known = self.find(image.digest)
        sources = dict.fromkeys([source] if source else [])
        sources |= dict.fromkeys(known.sources if known else ())
        needs = needs_of(image) | (known.needs if known else Needs())
        path = self._image_path(image.digest)
        record = Record(image.digest, needs, tuple(sources)[:8])
        if record == known:
            os.utime(path)
            return
        document = _needs_document(needs) | {"sources": list(record.sources)}
        with disk_full_as_error("recording an image"):
            replace_file(path, json.dumps(document).encode())

    def find(self, digest: str) -> Record | None:
        path = self._image_path(digest)
        try:
            age = time.time() - path.stat().st_mtime
            document = json.loads(path.read_bytes())
            return Record(digest, _parse_needs(document), tuple(document["sources"]), age)
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def touch(self, digest: str) -> bool:
        """Say that the image was just used. False when nothing is recorded of it."""
        try:
            os.utime(self._image_path(digest))
        except FileNotFoundError:
            return False
        return True

    def forget(self, digest: str) -> None:
        self._image_path(digest).unlink(missing_ok=True)

    def all(self) -> Iterator[Record]:
        for path in self.images.glob("*.json"):
            record = self.find(f"sha256:{path.stem}")
            if record is not None:
                yield record

    def set_name(self, name: str, digest: str) -> None:
        """Raises DiskFull."""
        with disk_full_as_error("naming an image"):
            replace_file(self._name_path(name), json.dumps({"name": name, "digest": digest}).encode())

    def find_name(self, name: str) -> str | None:
        return _read_digest(self._name_path(name))

    def named_digests(self) -> frozenset[str]:
        return frozenset(digest for path in self.names.glob("*.json") if (digest := _read_digest(path)))

    @contextlib.asynccontextmanager
    async def pinned(self, image: Image) -> AsyncIterator[None]:
        """
        Keep the collector away from all that the image needs, whether it is here yet or not.

        The pin is a locked file: when its owner dies, the lock goes, and the collector removes the file.
        """
        path = self.pins / f"{secrets.token_hex(16)}.json"
        async with locked(self.collecting, shared=True, keep_file=True):
            with disk_full_as_error("pulling an image"):
                descriptor = try_lock(path)
                if descriptor is None:
                    raise RuntimeError(f"{path} is locked although its name is random")
                try:
                    os.write(descriptor, json.dumps(_needs_document(needs_of(image))).encode())
                except BaseException:
                    unlock(descriptor, path)
                    raise
        try:
            yield
        finally:
            unlock(descriptor, path)

    def pinned_needs(self) -> Needs:
        """What living pulls need. The caller holds `collecting` exclusively; pins of the dead are removed."""
        needs = Needs()
        for path in self.pins.glob("*.json"):
            descriptor = try_lock(path)
            if descriptor is not None:
                unlock(descriptor, path)
                continue
            needs |= _parse_needs(json.loads(path.read_bytes()))
        return needs

    def _image_path(self, digest: str) -> Path:
        return self.images / f"{digest.removeprefix('sha256:')}.json"

    def _name_path(self, name: str) -> Path:
        # A name may be longer than a file name, and has slashes.
        return self.names / f"{hashlib.sha256(name.encode()).hexdigest()}.json"


def _needs_document(needs: Needs) -> dict[str, list[str]]:
    return {"blobs": sorted(needs.blobs), "chains": sorted(needs.chains)}


def _parse_needs(document: dict[str, Any]) -> Needs:
    return Needs(frozenset(document["blobs"]), frozenset(document["chains"]))


def _read_digest(path: Path) -> str | None:
    try:
        return str(json.loads(path.read_bytes())["digest"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
