"""How are layers unpacked without stalling the event loop, or trusting the code that does it?

`unpack` starts this module as a process of its own, which confines itself (confine.py), unpacks every layer into one
new directory, checks blob and tar digests on the way, syncs, and answers with one line of JSON. Killed or cancelled,
it leaves only a directory that nobody has a name for yet.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shellwego.core.errors import DiskFull
from shellwego.drivers.images.archive import Archive
from shellwego.drivers.images.confine import confine, die_with_parent, sync_file_system
from shellwego.drivers.images.extract import Extractor
from shellwego.drivers.images.limits import ImageLimits
from shellwego.drivers.images.manifest import Compression
from shellwego.drivers.images.streams import LayerStream, Refused

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_LONGEST_SECONDS = 3600.0
_SOURCE_ROOT = Path(__file__).parents[3]


@dataclass(frozen=True, slots=True)
class PackedLayer:
    """A layer blob in the store, and what its content has to hash to."""

    blob: str
    digest: str
    diff_id: str
    compression: Compression


class Damaged(Exception):
    """A blob in the store is no longer what it was. It has to be fetched again."""

    def __init__(self, digest: str) -> None:
        self.digest = digest
        super().__init__(f"{digest} is damaged in the store")


class UnpackerFailed(Exception):
    """The unpacker ended without an answer: a bug of ours, or somebody killed it."""


async def unpack(layers: Sequence[PackedLayer], into: Path, limits: ImageLimits, *, keep_open: Sequence[int]) -> None:
    """
    Unpack `layers`, lowest first, into the new directory `into`; on disk when this returns.

    The descriptors `keep_open` (locks) stay open until the unpacker is gone, even if we are killed first.
    Raises Refused, Damaged, DiskFull; then, and when cancelled, `into` is good for nothing and the caller removes it.
    """
    job = {"parent": os.getpid(), "into": str(into), "layers": [asdict(layer) for layer in layers]}
    job["limits"] = asdict(limits)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-s", "-m", "shellwego.drivers.images.unpack"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        pass_fds=tuple(keep_open),
        env={"PYTHONPATH": str(_SOURCE_ROOT), "PYTHONUTF8": "1"},
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(_LONGEST_SECONDS):
            out, err = await process.communicate(json.dumps(job).encode())
    except TimeoutError as error:
        raise Refused(f"it takes longer than {_LONGEST_SECONDS:.0f} s to unpack.") from error
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await asyncio.shield(process.wait())
    _raise_answer(out, err.decode(errors="replace"), process.returncode)


def _raise_answer(out: bytes, said: str, status: int | None) -> None:
    try:
        answer = json.loads(out)
        verdict = answer["verdict"]
    except (ValueError, TypeError, KeyError):
        raise UnpackerFailed(f"the unpacker ended with status {status}: {said.strip()[-2000:]}") from None
    match verdict:
        case "done":
            return
        case "refused":
            raise Refused(answer["why"])
        case "damaged":
            raise Damaged(answer["digest"])
        case "full":
            raise DiskFull("unpacking an image")
        case _:
            raise UnpackerFailed(f"the unpacker failed: {answer['why']}")


def unpack_here(layers: Sequence[PackedLayer], root: int, limits: ImageLimits, blobs: Sequence[int]) -> None:
    """
    Unpack into the directory behind `root`, reading the layers from the descriptors `blobs`, which this closes.

    Raises Refused, Damaged, OSError.
    """
    # A user without the right to give files away can still run the tests, and unpack images of one user.
    extractor = Extractor(root, limits, keep_owners=os.geteuid() == 0)
    for index, (layer, descriptor) in enumerate(zip(layers, blobs, strict=True)):
        with open(descriptor, "rb", buffering=0) as blob:  # noqa: PTH123  a descriptor, not a path
            room = limits.unpacked_bytes - extractor.bytes
            stream = LayerStream(blob, layer.compression, limits, room=room)
            try:
                extractor.apply(Archive(stream, limits), is_first=index == 0)
                blob_digest, tar_digest = stream.finish()
            except Refused:
                # Before we call somebody's image bad: are these the bytes that they sent?
                if stream.finish_blob() != layer.digest:
                    raise Damaged(layer.digest) from None
                raise
            if blob_digest != layer.digest:
                raise Damaged(layer.digest)
            if tar_digest != layer.diff_id:
                raise Refused(f"layer {layer.digest} unpacks to {tar_digest}; its config says {layer.diff_id}.")


def _work(job: Mapping[str, Any]) -> dict[str, str]:
    limits = ImageLimits(**job["limits"])
    layers = [
        PackedLayer(entry["blob"], entry["digest"], entry["diff_id"], Compression(entry["compression"]))
        for entry in job["layers"]
    ]
    into = Path(job["into"])
    try:
        os.umask(0o022)
        into.mkdir(mode=0o755)
        into.chmod(0o755)
        blobs = []
        for layer in layers:
            try:
                blobs.append(os.open(layer.blob, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW))
            except FileNotFoundError:
                raise Damaged(layer.digest) from None
        root = os.open(into, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if os.geteuid() == 0:
            confine(into)
        unpack_here(layers, root, limits, blobs)
        sync_file_system(root)
    except Refused as error:
        return {"verdict": "refused", "why": str(error)}
    except Damaged as error:
        return {"verdict": "damaged", "digest": error.digest}
    except OSError as error:
        if error.errno in FULL:
            return {"verdict": "full"}
        return {"verdict": "failed", "why": repr(error)}
    return {"verdict": "done"}


def main() -> None:
    job = json.load(sys.stdin)
    die_with_parent(job["parent"])
    answer = _work(job)
    sys.stdout.write(json.dumps(answer))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
