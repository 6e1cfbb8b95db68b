"""
How are figures told? One table for the terminal and for benches/README.md, with machine and versions. Each line says
itself when, at which commit and under which load it was measured, so that one figure can be measured anew alone.
"""

from __future__ import annotations

import datetime as dt
import os
import platform
import re
import subprocess
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

README = Path(__file__).with_name("README.md")
_BEGIN, _END = "<!-- results: written by `python -m benches --write` -->", "<!-- end of results -->"
_HEADS = ("figure", "here", "beside", "ratio", "aim", "", "measured")


@dataclass(frozen=True, slots=True)
class Row:
    """
    One line. `ratio` is what the aim speaks of, in words ("1.08x", "0.4 s more"); `kept` is None where there is no aim.
    """

    figure: str
    here: str
    beside: str = "-"
    ratio: str = "-"
    aim: str = "-"
    kept: bool | None = None
    measured: str = ""

    @property
    def cells(self) -> tuple[str, ...]:
        mark = {None: "", True: "kept", False: "**missed**"}[self.kept]
        return self.figure, self.here, self.beside, self.ratio, self.aim, mark, self.measured


def table(rows: Sequence[Row]) -> str:
    """Markdown, with columns that line up in a terminal too."""
    lines = [_HEADS, *(row.cells for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADS))]
    text = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    text.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(text)


def surroundings() -> str:
    """With what this was measured."""
    system = _first(r'PRETTY_NAME="(.*)"', Path("/etc/os-release").read_text())
    model = _first(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = int(_first(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text()) or 0) / 1024**2
    return (
        f"{os.cpu_count()} cores ({model}), {memory:.0f} GiB, {system}, kernel {platform.release()}, "
        f"Python {platform.python_version()}"
    )


def moment() -> str:
    """When, at which commit, and how busy the machine was with other things before."""
    commit = _said("git", "describe", "--always", "--dirty=+changes", "--exclude=*")
    return f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M}, {commit}, load {os.getloadavg()[0]:.1f}"


def versions(programs: dict[str, tuple[str, ...]]) -> str:
    """By name, the command that tells a version; its first number is taken."""
    known = {name: _first(r"(\d{8}\.\d+|\d+\.\d+(?:\.\d+)*)", _said(*command)) for name, command in programs.items()}
    return ", ".join(f"{name} {version}" for name, version in known.items() if version)


def write(rows: Sequence[Row], about: str, notes: Sequence[str] = (), *, figures: Collection[str] = ()) -> None:
    """
    Put the lines between the marks of README.md, each in the place that it had. Lines and notes that are not of
    `figures`, which were measured now, stay. Cells aren't padded: two who measure different figures change different
    lines.
    """
    text = README.read_text()
    before, rest = text.split(_BEGIN)
    old, after = rest.split(_END)
    new = {row.figure: row for row in rows}
    lines = [new.pop(row.figure, row) for row in _old_rows(old)] + list(new.values())
    kept = [line for line in old.splitlines() if line.startswith("- ") and line[2:].split(":")[0] not in figures]
    below = "\n".join([*kept, *(f"- {note}" for note in notes)])
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in (_HEADS, *(row.cells for row in lines)))
    table = table.replace("\n", "\n|" + "---|" * len(_HEADS) + "\n", 1)
    README.write_text(f"{before}{_BEGIN}\n{about}\n\n{table}\n" + (f"\n{below}\n" if below else "") + f"{_END}{after}")


def _old_rows(text: str) -> list[Row]:
    found = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and len(cells) == len(_HEADS) and cells[0] != _HEADS[0]:
            kept = {"kept": True, "**missed**": False}.get(cells[5].partition(",")[0])
            figure, here, beside, ratio, aim = cells[:5]
            found.append(Row(figure, here, beside, ratio, aim, kept, cells[6]))
    return found


def ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 0.1 else f"{seconds * 1000:.0f} ms"


def mb(count: float) -> str:
    return f"{count / 1e6:.1f} MB"


def _first(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    return found[1] if found else ""


def _said(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except OSError:
        return ""
    return (done.stdout + done.stderr).strip()
