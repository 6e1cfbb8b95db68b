"""How does a tree of a stranger's files go away, without following a link out of it?"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(directory: int, name: bytes | str) -> None:
    """Remove `name` and all below it, following nothing. Raises OSError; what is gone already is fine."""
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError):
        inside = os.open(name, _DIRECTORY, dir_fd=directory)
        try:
            for child in os.listdir(inside):  # noqa: PTH208  a descriptor, not a path
                remove_tree(inside, child)
        finally:
            os.close(inside)
        os.rmdir(name, dir_fd=directory)


def remove_path(path: Path) -> None:
    """The same by its path, of which only the last part is a stranger's."""
    parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(FileNotFoundError):
            remove_tree(parent, path.name)
    finally:
        os.close(parent)
