"""How are layers unpacked without stalling the event loop, or trusting the code that does it?

`unpack` starts unpacker.py as a process of its own. Killed or cancelled, that leaves only a directory that nobody has
a name for yet.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import zstandard

from shellwego.core.errors import DiskFull
from shellwego.drivers.images.limits import ImageLimits
from shellwego.drivers.images.streams import Refused
from shellwego.drivers.images.unpacker import Begun, CannotLink, Damaged, PackedLayer

__all__ = ["Begun", "CannotLink", "Damaged", "PackedLayer", "UnpackerFailed", "unpack"]

_LONGEST_SECONDS = 3600.0
_PYTHONPATH = os.pathsep.join(str(path) for path in (Path(__file__).parents[3], Path(zstandard.__file__).parents[1]))


class UnpackerFailed(Exception):
    """The unpacker ended without an answer: a bug of ours, or somebody killed it."""


async def unpack(
    layers: Sequence[PackedLayer],
    into: Path,
    limits: ImageLimits,
    *,
    base: Path | None = None,
    begun: Begun | None = None,
    keep_open: Sequence[int],
) -> Begun:
    """
    Unpack `layers`, lowest first, into the new directory `into`; not synced (settled.py).

    With `base`, they come on top of that tree, whose files get one more name each. With `begun`, which an earlier call
    returned, they come on top of what that call made: `into` is there. The descriptors `keep_open` (locks) stay open
    until the unpacker is gone, even if we are killed first.
    Raises Refused, Damaged, DiskFull, CannotLink for files of the base; then, and when cancelled, `into` is good for
    nothing and the caller removes it.
    """
    job = {
        "parent": os.getpid(),
        "into": str(into),
        "base": None if base is None else str(base),
        "begun": None if begun is None else asdict(begun),
        "layers": [asdict(layer) for layer in layers],
        "limits": asdict(limits),
    }
    process = await asyncio.create_subprocess_exec(
        # Without `site`, which would look for packages that nobody needs and takes as long as our own imports.
        *(sys.executable, "-P", "-S", "-m", "shellwego.drivers.images.unpacker"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        pass_fds=tuple(keep_open),
        env={"PYTHONPATH": _PYTHONPATH, "PYTHONUTF8": "1"},
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
    return _read_answer(out, err.decode(errors="replace"), process.returncode)


def _read_answer(out: bytes, said: str, status: int | None) -> Begun:
    try:
        answer = json.loads(out)
        verdict = answer["verdict"]
    except (ValueError, TypeError, KeyError):
        raise UnpackerFailed(f"the unpacker ended with status {status}: {said.strip()[-2000:]}") from None
    match verdict:
        case "done":
            return Begun(**answer["begun"])
        case "refused":
            raise Refused(answer["why"])
        case "damaged":
            raise Damaged(answer["digest"])
        case "full":
            raise DiskFull("unpacking an image")
        case "unlinkable":
            raise CannotLink(answer["why"])
        case _:
            raise UnpackerFailed(f"the unpacker failed: {answer['why']}")
