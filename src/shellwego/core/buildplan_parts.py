"""What is every build plan made of?

The plan itself, and the lines of the Dockerfiles that we write. Those are what a careful person would write:
dependencies before the source, so that a changed line of code installs nothing anew; a cache mount for the package
manager; no root at run time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from shellwego.core.apps import WEB
from shellwego.core.errors import InvalidField

PYTHON_BASE = "shellwego/base-python"
NODE_BASE = "shellwego/base-node"
STATIC_BASE = "shellwego/base-static"
DEBIAN_BASE = "shellwego/base-debian"

_EXCLUDED = ("**/.git", "**/node_modules", "**/.venv", "**/venv", "**/__pycache__", "**/*.pyc", "shellwego.toml")
"""What a source folder holds beside the source. `shellwego.toml` may name values that are nobody's business."""


class BuildKind(StrEnum):
    DOCKERFILE = "dockerfile"
    PYTHON = "python"
    NODE = "node"
    STATIC = "static"
    PROCFILE = "procfile"


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """
    `dockerfile` is its text. `processes` maps a process type to its command, for `sh -c` in the image; when it is
    empty, the image's own command is the web process. `notes` tell the developer what was decided and why.
    """

    kind: BuildKind
    dockerfile: str
    processes: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def copy_source(owner: str, *, source: str = ".", target: str = ".", also: tuple[str, ...] = ()) -> str:
    """The source, or a part of it, without what lies beside it in a folder."""
    excluded = " ".join(f"--exclude={pattern}" for pattern in (*_EXCLUDED, *also))
    return f"COPY --chown={owner} {excluded} {source} {target}"


def copy_manifest(*paths: str) -> str:
    """The files that name the dependencies, in one folder."""
    folder = paths[0].rpartition("/")[0]
    return "COPY " + json.dumps([*paths, f"./{folder}/" if folder else "./"])


def image_command(processes: Mapping[str, str]) -> str:
    """The image's own command, so that it also runs where nobody knows about process types."""
    command = processes.get(WEB) or next(iter(processes.values()))
    return "CMD " + json.dumps(["/bin/sh", "-c", command])


def joined(lines: list[str] | tuple[str, ...]) -> str:
    return "\n".join(lines) + "\n"


def text_of(files: Mapping[str, bytes | None], path: str) -> str:
    """The content of one of `WANTED`. Raises InvalidField, with the line, for what is no text."""
    content = files.get(path)
    if content is None:
        raise InvalidField(path, "is not a regular file, or larger than a file of its kind may be.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidField(path, "is not UTF-8 text.", line=content[: error.start].count(b"\n") + 1) from error
