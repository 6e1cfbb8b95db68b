"""What does the process that unpacks layers do? Started by unpack.py, with a job as JSON on its standard input.

It begins with links to what is unpacked already (or finds them made), confines itself (confine.py), unpacks every other
layer, checks blob and tar digests on the way, and answers with one line of JSON. It imports no event loop: a deploy
waits for its start.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shellwego.drivers.images.archive import Archive
from shellwego.drivers.images.confine import confine
from shellwego.drivers.images.extract import Extractor
from shellwego.drivers.images.limits import ImageLimits
from shellwego.drivers.images.manifest import Compression
from shellwego.drivers.images.streams import LayerStream, Refused
from shellwego.kit.disks import FULL
from shellwego.kit.processes import die_with_parent

_UNLINKABLE = frozenset({errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP, errno.EXDEV})

_NICENESS = 5
"""Apps that run come before an app that is to run; on an idle node this costs nothing."""


@dataclass(frozen=True, slots=True)
class PackedLayer:
    """A layer blob in the store, and what its content has to hash to."""

    blob: str
    digest: str
    diff_id: str | None
    """None for an archive that no image config vouches for: an uploaded source."""
    compression: Compression


@dataclass(frozen=True, slots=True)
class Begun:
    """What an unpacked tree counts for when more layers come on top of it."""

    entries: int
    size_bytes: int


class Damaged(Exception):
    """A blob in the store is no longer what it was. It has to be fetched again."""

    def __init__(self, digest: str) -> None:
        self.digest = digest
        super().__init__(f"{digest} is damaged in the store")


class CannotLink(Exception):
    """A file of the base can't have another name. Unpacking everything helps."""


def new_extractor(root: int, limits: ImageLimits) -> Extractor:
    """For the directory behind `root`."""
    # A user without the right to give files away can still run the tests, and unpack images of one user.
    return Extractor(root, limits, keep_owners=os.geteuid() == 0)


def link_base(base: Path, extractor: Extractor) -> None:
    """Begin with the tree `base`. Raises Refused, CannotLink, OSError."""
    tree = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        extractor.link_tree(tree)
    except OSError as error:
        if error.errno in _UNLINKABLE:
            raise CannotLink(str(error)) from error
        raise
    finally:
        os.close(tree)


def unpack_here(extractor: Extractor, layers: Sequence[PackedLayer], limits: ImageLimits, blobs: Sequence[int]) -> None:
    """
    Apply the layers, read from the descriptors `blobs`, which this closes.

    Raises Refused, Damaged, OSError.
    """
    for layer, descriptor in zip(layers, blobs, strict=True):
        with open(descriptor, "rb", buffering=0) as blob:  # noqa: PTH123  a descriptor, not a path
            room = limits.unpacked_bytes - extractor.bytes
            stream = LayerStream(blob, layer.compression, limits, room=room)
            try:
                extractor.apply(Archive(stream, limits))
                blob_digest, tar_digest = stream.finish()
            except Refused:
                # Before we call somebody's image bad: are these the bytes that they sent?
                if stream.finish_blob() != layer.digest:
                    raise Damaged(layer.digest) from None
                raise
            if blob_digest != layer.digest:
                raise Damaged(layer.digest)
            if layer.diff_id is not None and tar_digest != layer.diff_id:
                raise Refused(f"layer {layer.digest} unpacks to {tar_digest}; its config says {layer.diff_id}.")


def _work(job: Mapping[str, Any]) -> dict[str, Any]:
    limits = ImageLimits(**job["limits"])
    layers = [
        PackedLayer(entry["blob"], entry["digest"], entry["diff_id"], Compression(entry["compression"]))
        for entry in job["layers"]
    ]
    into = Path(job["into"])
    try:
        os.umask(0o022)
        if job["begun"] is None:
            into.mkdir(mode=0o755)
            into.chmod(0o755)
        blobs = []
        for layer in layers:
            try:
                blobs.append(os.open(layer.blob, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW))
            except FileNotFoundError:
                raise Damaged(layer.digest) from None
        root = os.open(into, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        extractor = new_extractor(root, limits)
        if job["base"] is not None:
            link_base(Path(job["base"]), extractor)
        if job["begun"] is not None:
            extractor.go_on(**job["begun"])
        if os.geteuid() == 0:
            confine(into)
        unpack_here(extractor, layers, limits, blobs)
    except Refused as error:
        return {"verdict": "refused", "why": str(error)}
    except Damaged as error:
        return {"verdict": "damaged", "digest": error.digest}
    except CannotLink as error:
        return {"verdict": "unlinkable", "why": str(error)}
    except OSError as error:
        if error.errno in FULL:
            return {"verdict": "full"}
        return {"verdict": "failed", "why": repr(error)}
    return {"verdict": "done", "begun": {"entries": extractor.entries, "size_bytes": extractor.bytes}}


def main() -> None:
    job = json.load(sys.stdin)
    die_with_parent(job["parent"], signal.SIGKILL)
    os.nice(_NICENESS)
    answer = _work(job)
    sys.stdout.write(json.dumps(answer))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
