"""Tables that stay tables, and text of strangers that can't steer a terminal."""

from __future__ import annotations

import datetime as dt
import io
import json

import pytest
from rich.console import Console

from shellwego.cli.output import Column, Format, Output, age, as_json, printable, size

NOW = dt.datetime(2026, 1, 31, 12, 0, tzinfo=dt.UTC)
COLUMNS = [Column("ID"), Column("WHY", cut=True), Column("N", right=True)]
ROWS = [["ins_abcdefghijklmnopqrst", "a very long reason " * 10, "1"], ["ins_x", "短い", "12"]]


def drawn(width: int | None) -> list[str]:
    output = Output(Format.TABLE)
    file = io.StringIO()
    output.results = Console(
        file=file, width=width, force_terminal=width is not None, color_system=None, soft_wrap=True, highlight=False
    )
    output.table(COLUMNS, ROWS)
    return file.getvalue().splitlines()


def test_a_narrow_terminal_cuts_words_and_never_ids() -> None:
    lines = drawn(60)
    assert len(lines) == 3
    assert all(len(line) <= 60 for line in lines)
    assert lines[1].startswith("ins_abcdefghijklmnopqrst  a very")
    assert "…" in lines[1]
    assert lines[1].endswith("  1")
    assert lines[2].endswith(" 12")


def test_a_pipe_gets_everything() -> None:
    lines = drawn(None)
    assert "a very long reason " * 9 in lines[1]
    assert "…" not in "".join(lines)


@pytest.mark.parametrize(
    "text",
    ["\x1b]0;owned\x07", "\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "\x1b[2J\x1b[1;1H", "\r\x08\x00", "\x9b31m",
     "\x1bP1;2|payload\x1b\\", "\x1b]52;c;ZXZpbA==\x07", "\x1b"],
)  # fmt: skip
def test_a_log_cannot_steer_the_terminal(text: str) -> None:
    for shown in (printable(text), printable(text, keep_colour=True)):
        assert not set(shown) & {chr(n) for n in (*range(9), *range(11, 32), *range(127, 160))}


def test_json_cannot_steer_the_terminal_either() -> None:
    """`-o json` is looked at too; and whoever cuts its lines as Python does gets whole ones."""
    said = {"text": "\x1b[2J\x9b2J\x7f\x85next\u2028line\u2029 ü 日本"}
    shown = as_json(said)
    assert not set(shown) & {chr(n) for n in (*range(32), *range(127, 160), 0x2028, 0x2029)}
    assert "ü 日本" in shown
    assert json.loads(shown) == said


def test_colours_of_a_log_pass_where_colours_are_wanted() -> None:
    assert printable("\x1b[31mred\x1b[0m", keep_colour=True) == "\x1b[31mred\x1b[0m"
    assert printable("\x1b[31mred\x1b[0m") == "red"
    assert printable("tab\tand\nline") == "tab\tand\nline"


def test_ages_and_sizes() -> None:
    ages = [age(NOW - dt.timedelta(seconds=s), NOW) for s in (0, 59, 119, 120, 7199, 7200, 172_799, 172_800)]
    assert ages == ["0s", "59s", "119s", "2m", "119m", "2h", "47h", "2d"]
    assert age(None, NOW) == "-"
    assert age(NOW + dt.timedelta(seconds=5), NOW) == "0s"  # A clock that is a little off is no "-5s".
    assert [size(n) for n in (0, 1023, 1024, 1 << 20, 3 << 30)] == ["0 B", "1023 B", "1.0 KiB", "1.0 MiB", "3.0 GiB"]
