"""Which files does an unpacked source have?

What `core.buildplan` asks for: every path, and the content of the few that decide. Symbolic links are names here,
never followed: the source is a stranger's.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from pathlib import Path

from shellwego.core.buildplan import WANTED

_LARGEST_BYTES = 1 << 20
_MOST_PATHS = 100_000


def read_source_files(directory: Path, *, also: Collection[str] = ()) -> dict[str, bytes | None]:
    """
    Paths relative to `directory`; contents where `WANTED` or in `also`, None for others and for what is no regular
    file of at most 1 MiB. Folders that hold no source (`.git`, `node_modules`) are left out. Blocks: use a thread.
    """
    wanted = {*WANTED, *also}
    found: dict[str, bytes | None] = {}
    for folder, folders, files in os.walk(directory, followlinks=False):
        folders[:] = sorted(name for name in folders if name not in (".git", "node_modules", ".venv", "venv"))
        for name in sorted(files):
            path = Path(folder, name)
            relative = path.relative_to(directory).as_posix()
            found[relative] = _content(directory, relative) if relative in wanted else None
        if len(found) > _MOST_PATHS:
            break
    return found


def _content(directory: Path, relative: str) -> bytes | None:
    # Every component is opened without following links, so that `sub -> /etc` in `sub/Dockerfile` leads nowhere.
    *folders, name = relative.split("/")
    at = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for folder in folders:
            inner = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
            os.close(at)
            at = inner
        # Non-blocking: a named pipe in the source must not hold us.
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=at)
    except OSError:
        return None
    finally:
        os.close(at)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST_BYTES:
            return None
        return file.read(_LARGEST_BYTES)
