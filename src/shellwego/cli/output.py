"""How does a command show what it found?

Results go to stdout, as a table for people or as JSON or YAML for programs; talk (progress, hints, what to type next)
goes to stderr, so that a pipe carries results only. A table's rows stay one line each: on a terminal too narrow for
them the columns that may be cut are cut, in a pipe nothing is.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from pydantic import BaseModel


class Format(StrEnum):
    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


@dataclass(frozen=True, slots=True)
class Column:
    title: str
    cut: bool = False
    """May be shortened on a narrow terminal."""
    right: bool = False
    drop: int = 0
    """Left out of a terminal that is too narrow for all, the highest number first; 0 never is."""


STYLES = {
    "running": "green",
    "healthy": "green",
    "live": "green",
    "live (rollback)": "green",
    "succeeded": "green",
    "ready": "green",
    "degraded": "yellow",
    "starting": "yellow",
    "pulling": "yellow",
    "pending": "yellow",
    "deploying": "yellow",
    "queued": "yellow",
    "building": "yellow",
    "resolving": "yellow",
    "rolling": "yellow",
    "backoff": "yellow",
    "unhealthy": "red",
    "crashed": "red",
    "crash_loop": "red",
    "failed": "red",
    "lost": "red",
    "unreachable": "red",
    "stopped": "dim",
    "stopping": "dim",
    "superseded": "dim",
    "replaced": "dim",
    "cancelled": "dim",
    "empty": "dim",
}


class Output:
    """Where results and talk go. One per command."""

    def __init__(self, form: Format) -> None:
        self.form = form
        self.results = Console(highlight=False, markup=False, soft_wrap=True, emoji=False)
        self.talk = Console(stderr=True, highlight=False, markup=False, soft_wrap=True, emoji=False)

    @property
    def for_people(self) -> bool:
        return self.form is Format.TABLE

    def say(self, text: str, style: str = "", *, prose: bool = False) -> None:
        """Talk, to stderr. On a terminal `prose` breaks between words; what is to be copied must not be broken."""
        self.talk.print(printable(text), style=style or None, soft_wrap=not (prose and self.talk.is_terminal))

    def line(self, text: str, style: str = "") -> None:
        """A line of result, to stdout."""
        self.results.print(printable(text), style=style or None)

    def raw(self, text: str) -> None:
        """Results for programs, byte for byte."""
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
        sys.stdout.flush()

    def document(self, value: Any) -> None:
        """A value as JSON or YAML."""
        if self.form is Format.YAML:
            import yaml

            self.raw(yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=1000))
        else:
            self.raw(as_json(value, indent=2))

    def one(self, model: BaseModel, facts: Sequence[tuple[str, str]]) -> None:
        """One object: its facts, one per line, or the whole of it."""
        if not self.for_people:
            self.document(model.model_dump(mode="json"))
            return
        width = max((len(name) for name, _ in facts), default=0)
        for name, value in facts:
            self.results.print(Text(f"{name:<{width}}  ", style="dim"), _styled(value), sep="")

    def many(self, models: Sequence[BaseModel], columns: Sequence[Column], rows: Iterable[Sequence[str]],
             *, if_none: str) -> None:  # fmt: skip
        """Several objects: a table, or all of them. `if_none` is said instead of an empty table."""
        if not self.for_people:
            self.document([model.model_dump(mode="json") for model in models])
        elif models:
            self.table(columns, list(rows))
        else:
            self.say(if_none)

    def table(self, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
        rows = [[printable(cell).replace("\n", " ") for cell in row] for row in rows]
        widths = [max(cell_len(column.title), *(cell_len(row[n]) for row in rows)) for n, column in enumerate(columns)]
        if self.results.is_terminal:
            kept = _kept(widths, columns, self.results.width)
            columns, widths = [columns[n] for n in kept], [widths[n] for n in kept]
            rows = [[row[n] for n in kept] for row in rows]
            widths = _fitted(widths, columns, self.results.width)
        titles = [column.title for column in columns]
        self.results.print(Text(_row(titles, widths, columns), style="bold"))
        for row in rows:
            text = Text()
            for n, cell in enumerate(row):
                text.append(_cell(cell, widths[n], columns[n], last=n == len(row) - 1), style=STYLES.get(cell, ""))
                text.append("" if n == len(row) - 1 else "  ")
            text.rstrip()
            self.results.print(text)


_GAP = 2
_NARROWEST = 8


def _kept(widths: Sequence[int], columns: Sequence[Column], room: int) -> list[int]:
    """The columns that a terminal has room for, by their numbers."""
    least = [min(width, _NARROWEST) if columns[n].cut else width for n, width in enumerate(widths)]
    kept = list(range(len(columns)))
    for victim in sorted((n for n in kept if columns[n].drop), key=lambda n: -columns[n].drop):
        if sum(least[n] for n in kept) + _GAP * (len(kept) - 1) <= room:
            break
        kept.remove(victim)
    return kept


def _fitted(widths: list[int], columns: Sequence[Column], room: int) -> list[int]:
    widths = list(widths)
    while sum(widths) + _GAP * (len(widths) - 1) > room:
        widest = max(
            (n for n, column in enumerate(columns) if column.cut and widths[n] > _NARROWEST),
            key=lambda n: widths[n],
            default=None,
        )
        if widest is None:
            return widths  # The terminal wraps; cutting an id would be worse.
        widths[widest] -= 1
    return widths


def _row(cells: Sequence[str], widths: Sequence[int], columns: Sequence[Column]) -> str:
    parts = [_cell(cell, widths[n], columns[n], last=n == len(cells) - 1) for n, cell in enumerate(cells)]
    return (" " * _GAP).join(parts).rstrip()


def _cell(cell: str, width: int, column: Column, *, last: bool) -> str:
    if cell_len(cell) > width:
        return set_cell_size(cell, width - 1) + "…"
    if column.right:
        return " " * (width - cell_len(cell)) + cell
    return cell if last else set_cell_size(cell, width)


def _styled(value: str) -> Text:
    return Text(printable(value), style=STYLES.get(value, ""))


# --- text from elsewhere --------------------------------------------------------------------------------------------

_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI
    r"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?"  # OSC, DCS, ...: window titles, links, clipboard
    r"|\x1b[ -/]*[0-~]?"
)
_COLOUR = re.compile(r"\x1b\[[0-9;:]*m")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f]")
_JSON_CONTROLS = re.compile(r"[\x7f-\x9f\u2028\u2029]")


def as_json(value: Any, *, indent: int | None = None) -> str:
    """JSON that is safe to look at: what it escapes by itself, and the controls of eight bits and odd line ends."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return _JSON_CONTROLS.sub(lambda m: f"\\u{ord(m[0]):04x}", text)


def printable(text: str, *, keep_colour: bool = False) -> str:
    """
    The text without what would steer the terminal: an app's log must not move the cursor, rename the window or
    write to the clipboard of whoever reads it. `keep_colour` lets colours pass.
    """
    if "\x1b" in text:
        text = _ESCAPES.sub(lambda m: m[0] if keep_colour and _COLOUR.fullmatch(m[0]) else "", text)
    return _CONTROLS.sub("", text)


def colour_allowed(console: Console) -> bool:
    return console.is_terminal and "NO_COLOR" not in os.environ and not console.is_dumb_terminal


def age(since: dt.datetime | None, now: dt.datetime) -> str:
    """`5s`, `3m`, `7h`, `12d`."""
    if since is None:
        return "-"
    seconds = max(0, int((now - since).total_seconds()))
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= 2 * length or (unit == "m" and seconds >= 120):
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def size(count: float) -> str:
    """`812 B`, `3.4 MiB`."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def counted(count: int, one: str, many: str | None = None) -> str:
    """`1 file`, `3 files`."""
    return f"{count} {one if count == 1 else many or one + 's'}"
