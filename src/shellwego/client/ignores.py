"""Which files of a source folder stay at home?

`.dockerignore`, as Docker reads it (moby/patternmatcher: patterns count from the root of the folder, the last match
wins, `!` brings back), if there is one. If there is none, `.gitignore` files as git reads them, after a few folders
that nobody means to upload.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pathspec

NEVER = frozenset({".git", ".hg", ".svn"})
"""Never packed, at any depth: history, and often credentials in its configuration."""

BY_DEFAULT = ("node_modules/", "__pycache__/", "*.py[cod]", ".venv/", ".tox/", ".mypy_cache/",
              ".pytest_cache/", ".ruff_cache/", ".DS_Store")  # fmt: skip
"""In `.gitignore` syntax, where there is no `.dockerignore`; the `.gitignore` may bring them back with `!`."""


class Ignore(Protocol):
    def excludes(self, path: str, *, is_folder: bool) -> bool:
        """Whether the file or folder at that path (`a/b`, from the root of the source) stays at home."""

    def may_hold_kept(self, folder: str) -> bool:
        """Whether something inside an excluded folder may still be kept."""

    def enter(self, folder: str) -> None:
        """The walk is about to list this folder (`""` is the root)."""


def ignore_of(root: Path, dockerfile: str | None = None) -> tuple[Ignore, str]:
    """What decides for this folder, and the name of the file that says so; "" for our defaults."""
    for name in (f"{dockerfile or 'Dockerfile'}.dockerignore", ".dockerignore"):  # BuildKit's order
        if (root / name).is_file():
            return DockerIgnore(_lines(root / name)), name
    return GitIgnore(root), ".gitignore" if (root / ".gitignore").is_file() else ""


# --- .dockerignore ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Pattern:
    regex: re.Pattern[str]
    segments: tuple[str, ...]
    brings_back: bool


class DockerIgnore:
    def __init__(self, lines: Iterable[str]) -> None:
        self._patterns = [pattern for line in lines if (pattern := _docker_pattern(line)) is not None]

    def excludes(self, path: str, *, is_folder: bool) -> bool:
        parts = path.split("/")
        # A pattern that matches a folder matches all that is in it.
        candidates = ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]
        excluded = False
        for pattern in self._patterns:
            if pattern.brings_back == excluded and any(pattern.regex.fullmatch(name) for name in candidates):
                excluded = not pattern.brings_back
        return excluded

    def may_hold_kept(self, folder: str) -> bool:
        return any(p.brings_back and _may_lead_into(p.segments, folder.split("/")) for p in self._patterns)

    def enter(self, folder: str) -> None:
        pass  # Docker reads one file, at the root.


def _docker_pattern(line: str) -> _Pattern | None:
    if line.startswith("#"):
        return None
    text = line.strip()
    brings_back = text.startswith("!")
    text = text.removeprefix("!").strip()
    if not text:
        return None
    text = posixpath.normpath(text).lstrip("/")
    if text in {"", "."}:  # The whole folder, or nothing at all: Docker ignores the line, and so do we.
        return None
    return _Pattern(re.compile(_docker_regex(text), re.DOTALL), tuple(text.split("/")), brings_back)


def _docker_regex(text: str) -> str:
    regex, at = "", 0
    while at < len(text):
        char = text[at]
        at += 1
        if char == "*" and text.startswith("*", at):
            at += 1
            if text.startswith("/", at):
                at += 1
            regex += ".*" if at >= len(text) else "(?:.*/)?"
        elif char == "*":
            regex += "[^/]*"
        elif char == "?":
            regex += "[^/]"
        elif char == "\\" and at < len(text):
            regex += re.escape(text[at])
            at += 1
        elif char == "[" and (end := text.find("]", at + 1)) != -1:
            inside = text[at:end].replace("\\", "\\\\").replace("[", "\\[")
            regex += f"[{inside}]"
            at = end + 1
        else:
            regex += re.escape(char)
    try:
        re.compile(regex)
    except re.error:  # `[z-a]`: Docker refuses the file; we take the pattern as it is written.
        return re.escape(text)
    return regex


def _may_lead_into(segments: tuple[str, ...], folder: list[str]) -> bool:
    for pattern, name in zip(segments, folder, strict=False):
        if "**" in pattern:
            return True
        if re.fullmatch(_docker_regex(pattern), name, re.DOTALL) is None:
            return False
    return True


# --- .gitignore ---------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class GitIgnore:
    """Every `.gitignore` from the top of the repository down; a deeper one has the last word."""

    root: Path
    _specs: list[tuple[str, pathspec.GitIgnoreSpec]] = field(default_factory=list)
    """By the folder they stand in, relative to the root; above it, that is `../`-less: see `_above`."""
    _above: list[tuple[str, pathspec.GitIgnoreSpec]] = field(default_factory=list)
    """Of the repository's folders above the root, with the root's path as seen from there."""

    def __post_init__(self) -> None:
        root = self.root.resolve()
        top = next((folder for folder in (root, *root.parents) if (folder / ".git").exists()), root)
        self._above = [("", pathspec.GitIgnoreSpec.from_lines(BY_DEFAULT))]
        if top != root:
            between = [folder for folder in reversed(root.parents) if folder.is_relative_to(top)]
            self._above += [
                (f"{root.relative_to(folder).as_posix()}/", pathspec.GitIgnoreSpec.from_lines(_lines(file)))
                for folder in between
                if (file := folder / ".gitignore").is_file()
            ]

    def excludes(self, path: str, *, is_folder: bool) -> bool:
        end = "/" if is_folder else ""
        for folder, spec in reversed(self._specs):
            if path.startswith(folder):
                said = spec.check_file(path[len(folder) :] + end).include
                if said is not None:
                    return said
        for prefix, spec in reversed(self._above):
            said = spec.check_file(prefix + path + end).include
            if said is not None:
                return said
        return False

    def may_hold_kept(self, folder: str) -> bool:
        return False  # gitignore(5): nothing can be brought back from an excluded folder.

    def enter(self, folder: str) -> None:
        file = self.root / folder / ".gitignore"
        if file.is_file() and not file.is_symlink():
            prefix = f"{folder}/" if folder else ""
            self._specs.append((prefix, pathspec.GitIgnoreSpec.from_lines(_lines(file))))


def _lines(file: Path) -> list[str]:
    return file.read_text("utf-8-sig", errors="replace").splitlines()
