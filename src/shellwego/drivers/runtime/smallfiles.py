"""How do we read hundreds of one-line files of the kernel each second for next to nothing?

Without pathlib and text layers: three system calls a file. Looking at all sandboxes is what an agent does all day, and
what it costs is a promise in numbers.
"""

from __future__ import annotations

import os

_ENOUGH = 16384


def read_small(path: str) -> bytes | None:
    """A file of at most 16 KiB; None if it isn't there or its process or group is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(descriptor, _ENOUGH)
    except OSError:  # ESRCH, ENODEV: it went away between the two calls.
        return None
    finally:
        os.close(descriptor)
