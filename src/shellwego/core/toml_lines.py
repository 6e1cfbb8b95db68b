"""On which line of a TOML document does each key stand?

`tomllib` says what a document means and nothing about where it says so, and a refusal without its line sends people
hunting. This walks a document that `tomllib` has already accepted, so it needs no error handling of its own: it only
has to know where strings, arrays and inline tables end. A property test compares its keys with `tomllib`'s.
"""

from __future__ import annotations

import re
import tomllib

KeyPath = tuple[str | int, ...]
"""`("processes", "web", "command")`; elements of arrays are numbers."""

DEEPEST = 16
"""Deeper keys are said to stand where their ancestor does; no file of ours nests so, and depth costs its square."""

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
# The order matters: an empty basic string `""` must not be read as the start of a multi-line one, and is not,
# since three quotes are tried first and a valid document never has exactly `"""` elsewhere. A multi-line string may
# end in one or two quotes of its own before the three that close it (TOML 1.0, "String").
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"""(?:""?(?!"))?'
    r"|'''.*?'''(?:''?(?!'))?"
    r'|"(?:[^"\\]|\\.)*"'
    r"|'[^']*'",
    re.DOTALL,
)
_SCALAR = re.compile(r"[^,\]}#\r\n]+")


def find_lines(text: str) -> dict[KeyPath, int]:
    """The line, from 1, of the first mention of every key and array element of a valid document."""
    return _Walk(text).lines


class _Walk:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self._counted = (0, 1)
        self.lines: dict[KeyPath, int] = {}
        self._last: dict[KeyPath, int] = {}
        """Arrays of tables: the number of the element that `[that.array.key]` now means."""
        table: KeyPath = ()
        self._skip(_BLANK)
        while self.at < len(text):
            if self.text.startswith("[", self.at):
                table = self._header()
            else:
                self._pair(table)
            self._skip(_BLANK)

    def _header(self) -> KeyPath:
        line = self._line()
        is_array = self.text.startswith("[[", self.at)
        self.at += 2 if is_array else 1
        keys = self._keys()
        self.at += 2 if is_array else 1
        path: KeyPath = ()
        for position, key in enumerate(keys[:DEEPEST]):
            path += (key,)
            self._note(path, line)
            if is_array and position == len(keys) - 1:
                self._last[path] = self._last.get(path, -1) + 1
            if path in self._last:
                path += (self._last[path],)
                self._note(path, line)
        return path

    def _pair(self, table: KeyPath) -> None:
        line = self._line()
        path = table
        for key in self._keys()[:DEEPEST]:
            path += (key,)
            self._note(path, line)
        self.at += 1  # the equals sign
        self._skip(_SPACE)
        self._value(path)

    def _keys(self) -> list[str]:
        keys = []
        while True:
            self._skip(_SPACE)
            if self.text[self.at] in "\"'":
                [key] = tomllib.loads(f"{self._take(_STRING)} = 0")
            else:
                key = self._take(_BARE_KEY)
            keys.append(key)
            self._skip(_SPACE)
            if not self.text.startswith(".", self.at):
                return keys
            self.at += 1

    def _value(self, path: KeyPath) -> None:
        first = self.text[self.at]
        if first in "\"'":
            self._take(_STRING)
        elif first == "[":
            self._items("]", path)
        elif first == "{":
            self._items("}", path)
        else:
            self._take(_SCALAR)

    def _items(self, end: str, path: KeyPath) -> None:
        self.at += 1
        number = 0
        while True:
            self._skip(_BLANK)
            if self.text[self.at] == end:
                self.at += 1
                return
            if self.text[self.at] == ",":
                self.at += 1
            elif end == "}":
                self._pair(path)
            else:
                self._note((*path, number), self._line())
                self._value((*path, number))
                number += 1

    def _note(self, path: KeyPath, line: int) -> None:
        if len(path) <= DEEPEST:
            self.lines.setdefault(path, line)

    def _line(self) -> int:
        before, line = self._counted
        line += self.text.count("\n", before, self.at)
        self._counted = (self.at, line)
        return line

    def _skip(self, pattern: re.Pattern[str]) -> None:
        self._take(pattern)

    def _take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.at)
        if match is None:  # tomllib accepted what we can't walk: a bug of ours, never the user's.
            raise ValueError(f"cannot walk this TOML at character {self.at}")
        self.at = match.end()
        return match[0]
