"""A Procfile decides what runs: a line misread is a process that never starts."""

from __future__ import annotations

import pytest

from shellwego.core.errors import InvalidField
from shellwego.core.procfile import parse_procfile


def test_process_types_keep_their_order_and_their_commands() -> None:
    text = "\ufeff# comment\n\nweb: gunicorn --bind 0.0.0.0:$PORT app:app\nworker:python worker.py  \n"
    assert parse_procfile(text) == {"web": "gunicorn --bind 0.0.0.0:$PORT app:app", "worker": "python worker.py"}
    assert list(parse_procfile("b: 1\na: 2\n")) == ["b", "a"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        pytest.param("web gunicorn\n", 1, id="no colon"),
        pytest.param("web: a\n\nweb: b\n", 3, id="twice"),
        pytest.param("Web: a\n", 1, id="a capital"),
        pytest.param("web:\n", 1, id="no command"),
        pytest.param("\n\n-x: a\n", 3, id="a name that no process type may have"),
        pytest.param("web: a\0b\n", 1, id="NUL"),
        pytest.param("".join(f"p{n}: x\n" for n in range(30)), 21, id="too many"),
    ],
)
def test_a_wrong_line_is_named(text: str, line: int) -> None:
    with pytest.raises(InvalidField) as error:
        parse_procfile(text)
    assert error.value.line == line


def test_an_empty_procfile_is_refused() -> None:
    with pytest.raises(InvalidField, match="names no process type"):
        parse_procfile("# nothing\n")
