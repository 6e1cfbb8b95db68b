"""Which images does a Dockerfile stand on, and what in it must BuildKit not see?

Reads only what answers that: parser directives, FROM, ARG before it, `COPY --from` and `RUN --mount=from`. Everything
else is BuildKit's business, which also reports the mistakes; a text that we can't make sense of yields no names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from shellwego.core.errors import InvalidField

_DIRECTIVE = re.compile(r"\s*([a-zA-Z][a-zA-Z0-9]*)\s*=\s*(.+?)\s*")
_DIRECTIVES = frozenset({"syntax", "escape", "check"})
_HEREDOC = re.compile(r"<<(-?)\s*(['\"]?)([a-zA-Z_][a-zA-Z0-9_]*)\2")
_HEREDOC_INSTRUCTIONS = frozenset({"RUN", "COPY", "ADD"})
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)(?:(:?[-+])([^}]*))?\})")
_HUB = ("docker.io/library/", "index.docker.io/library/", "library/", "docker.io/", "index.docker.io/")

MAXIMUM_DOCKERFILE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction: its keyword in capitals, the rest with its continuation lines joined, its first line from 1."""

    keyword: str
    rest: str
    line: int


def familiar_name(name: str) -> str:
    """The short form that Docker and BuildKit know an image by: `docker.io/library/python:latest` is `python`."""
    for prefix in _HUB:
        if name.startswith(prefix):
            name = name[len(prefix) :]
            break
    return name.removesuffix(":latest")


def without_syntax_line(text: str) -> str:
    """
    The Dockerfile without its `syntax` directive, line numbers kept, other directives still valid.

    The directive asks BuildKit to fetch a frontend from a hub and let that read the file; the one inside BuildKit
    reads the same language. BuildKit also takes the directive after a `#!` line, in `//` style and as JSON.
    """
    if len(text.encode()) > MAXIMUM_DOCKERFILE_BYTES:
        raise InvalidField("Dockerfile", f"is over {MAXIMUM_DOCKERFILE_BYTES >> 20} MiB.")
    lines = text.removeprefix("\ufeff").splitlines()
    first = 1 if lines and lines[0].startswith("#!") else 0
    if first < len(lines) and lines[first].lstrip().startswith("{"):
        raise InvalidField("Dockerfile", "starts with '{', which is not a Dockerfile.", line=first + 1)
    kept: list[str] = []
    removed = 0
    at = first
    marker = "//" if at < len(lines) and lines[at].startswith("//") else "#"
    while at < len(lines):
        match = _DIRECTIVE.fullmatch(lines[at][len(marker) :]) if lines[at].startswith(marker) else None
        if match is None or match[1].lower() not in _DIRECTIVES:
            break
        if match[1].lower() == "syntax" or marker == "//":
            removed += 1
        else:
            kept.append(lines[at])
        at += 1
    # A comment ends the directives, so what stands in for the removed lines comes after the ones that stay.
    note = ["# (the builder's own frontend reads this file)"] * (removed + first)
    return "\n".join([*kept, *note, *lines[at:]]) + "\n"


def instructions(text: str) -> Iterator[Instruction]:
    """Each instruction of a Dockerfile. Here-documents are skipped: their lines are no instructions."""
    lines = text.removeprefix("\ufeff").splitlines()
    escape = _escape_character(lines)
    at = 0
    while at < len(lines):
        start, line = at, lines[at].strip()
        at += 1
        if not line or line.startswith("#"):
            continue
        while line.endswith(escape) and at < len(lines):
            line = line[:-1]
            # Comments and, as Docker tolerates, empty lines inside a continued instruction are not part of it.
            while at < len(lines) and (not lines[at].strip() or lines[at].lstrip().startswith("#")):
                at += 1
            if at < len(lines):
                line += lines[at].rstrip()
                at += 1
        keyword, _, rest = line.partition(" ") if " " in line else line.partition("\t")
        yield Instruction(keyword.upper(), rest.strip(), start + 1)
        if keyword.upper() in _HEREDOC_INSTRUCTIONS:
            for dash, _, name in _HEREDOC.findall(rest):
                while at < len(lines) and (lines[at].lstrip("\t") if dash else lines[at]) != name:
                    at += 1
                at += 1


def base_names(text: str, build_args: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """
    Every image that the Dockerfile names, as written, variables filled in, each once, in order: what the builder must
    be given or fetch. Stages and `scratch` are not images.
    """
    given = dict(build_args or {})
    values: dict[str, str] = dict(_platform_values())
    stages: set[str] = set()
    seen_from = False
    count = 0
    names: dict[str, None] = {}
    for instruction in instructions(text):
        if instruction.keyword == "ARG" and not seen_from:
            for key, default in _arguments(instruction.rest):
                value = given.get(key, None if default is None else _fill_in(default, values))
                if value is not None:
                    values[key] = value
        elif instruction.keyword == "FROM":
            seen_from = True
            words = [word for word in instruction.rest.split() if not word.startswith("--")]
            if not words:
                continue
            name = _fill_in(words[0].strip("\"'"), values)
            if name and name.lower() not in stages and name != "scratch":
                names.setdefault(name)
            count += 1
            if len(words) >= 3 and words[1].upper() == "AS":
                stages.add(words[2].lower())
        elif instruction.keyword in ("COPY", "ADD", "RUN"):
            for source in _sources(instruction):
                name = _fill_in(source, values)
                if name and name.lower() not in stages and not name.isdigit() and name != "scratch":
                    names.setdefault(name)
    return tuple(names)


def _escape_character(lines: list[str]) -> str:
    for line in lines:
        match = _DIRECTIVE.fullmatch(line[1:]) if line.startswith("#") else None
        if match is None or match[1].lower() not in _DIRECTIVES:
            return "\\"
        if match[1].lower() == "escape":
            return "`" if match[2] == "`" else "\\"
    return "\\"


def _platform_values() -> dict[str, str]:
    # What BuildKit defines by itself; all sandboxes of a cloud are Linux, and a name seldom holds more than these.
    return {"TARGETOS": "linux", "BUILDOS": "linux"}


def _arguments(rest: str) -> Iterator[tuple[str, str | None]]:
    for word in re.findall(r"""(?:[^\s"']|"[^"]*"|'[^']*')+""", rest):
        key, equals, value = word.partition("=")
        yield key, re.sub(r"[\"']", "", value) if equals else None


def _sources(instruction: Instruction) -> Iterator[str]:
    for word in instruction.rest.split():
        if not word.startswith("--"):
            return
        if word.startswith("--from=") and instruction.keyword != "RUN":
            yield word.removeprefix("--from=").strip("\"'")
        elif word.startswith("--mount=") and instruction.keyword == "RUN":
            for part in word.removeprefix("--mount=").split(","):
                if part.startswith("from="):
                    yield part.removeprefix("from=")


def _fill_in(text: str, values: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        found = values.get(match[1] or match[2])
        operator, word = match[3], match[4] or ""
        if operator is None:
            return found or ""
        present = found is not None and (found != "" or not operator.startswith(":"))
        if operator.endswith("-"):
            return (found or "") if present else _fill_in(word, values)
        return _fill_in(word, values) if present else ""

    return _VARIABLE.sub(value, text)
