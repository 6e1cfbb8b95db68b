"""`K=V`, `.env` files and times, as people write them."""

from __future__ import annotations

import contextlib
import datetime as dt
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shellwego.cli.pairs import parse_env_file, parse_pairs, parse_since
from shellwego.core.errors import InvalidField

NOW = dt.datetime(2026, 1, 31, 12, 0, tzinfo=dt.UTC)


def test_a_file_of_variables_as_compose_and_dotenv_write_it() -> None:
    text = """
# a comment
A=1
export B = two words   # and a comment
C="line\\nbreak \\"quoted\\" # kept" # comment
D='as $it is \\n'
E=
F=a#b
KEY="-----BEGIN-----
abc
-----END-----"
"""
    assert parse_env_file(text) == {
        "A": "1",
        "B": "two words",
        "C": 'line\nbreak "quoted" # kept',
        "D": "as $it is \\n",
        "E": "",
        "F": "a#b",
        "KEY": "-----BEGIN-----\nabc\n-----END-----",
    }


@pytest.mark.parametrize(("text", "line"), [("A=1\nnonsense", 2), ("\n\nA='open\n", 3), ("A='x' y", 1)])
def test_a_line_that_is_none_is_named(text: str, line: int) -> None:
    with pytest.raises(InvalidField) as caught:
        parse_env_file(text)
    assert caught.value.line == line


@given(st.text())
def test_no_file_crashes(text: str) -> None:
    with contextlib.suppress(InvalidField):
        parse_env_file(text)


def test_a_value_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret\n")
    assert parse_pairs([f"K=@{tmp_path}/key", "L=@@me"], field="config") == {"K": "secret\n", "L": "@me"}
    with pytest.raises(InvalidField, match="can't be read"):
        parse_pairs(["K=@/nowhere"], field="config")


def test_since() -> None:
    assert parse_since("10m", NOW) == "2026-01-31T11:50:00+00:00"
    assert parse_since("2d", NOW) == "2026-01-29T12:00:00+00:00"
    assert parse_since("2026-01-31T12:00:00Z", NOW) == "2026-01-31T12:00:00+00:00"
    for text in ("yesterday", "10", "-5m", "99999999999w", ""):
        with pytest.raises(InvalidField):
            parse_since(text, NOW)
