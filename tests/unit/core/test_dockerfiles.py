"""Which images does a Dockerfile need? One overlooked is fetched from a hub that may not be there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shellwego.core.dockerfiles import base_names, familiar_name, instructions, without_syntax_line
from shellwego.core.errors import InvalidField


@pytest.mark.parametrize(
    ("text", "names"),
    [
        pytest.param("FROM python:3.11-slim\n", ("python:3.11-slim",), id="plain"),
        pytest.param("from python:3 as Build\nFROM build\nFROM BUILD as x\n", ("python:3",), id="stages, any case"),
        pytest.param("FROM scratch\nCOPY a b\n", (), id="scratch"),
        pytest.param("FROM --platform=$BUILDPLATFORM golang:1 AS b\nFROM debian\n", ("golang:1", "debian"), id="flags"),
        pytest.param("ARG V=3.11\nFROM python:${V}-slim\n", ("python:3.11-slim",), id="argument"),
        pytest.param("ARG V\nFROM python:${V:-3.9}\n", ("python:3.9",), id="default"),
        pytest.param("ARG V=1\nFROM python${V:+:3}\n", ("python:3",), id="alternative"),
        pytest.param("ARG R=reg.example/\nARG I=${R}app\nFROM $I:1\n", ("reg.example/app:1",), id="argument of one"),
        pytest.param("ARG A=1 B='2'\nFROM x:$A.$B\n", ("x:1.2",), id="two in a line"),
        pytest.param("FROM \\\n# comment\n\n  node:20 \\\n AS x\nRUN true\n", ("node:20",), id="continued"),
        pytest.param("# escape=`\nFROM `\n  node:20\n", ("node:20",), id="other escape"),
        pytest.param("FROM a\nCOPY --from=b:1 /x /\nCOPY --from=0 /x /\n", ("a", "b:1"), id="copy from an image"),
        pytest.param("FROM a\nRUN --mount=type=bind,from=tool:2,target=/t x\n", ("a", "tool:2"), id="mount from one"),
        pytest.param("FROM a\nRUN <<EOF\nFROM evil\nEOF\nFROM b\n", ("a", "b"), id="here-document"),
        pytest.param("FROM a\nRUN <<-'X' cat <<Y\nFROM c\n\tX\nFROM d\nY\nFROM b\n", ("a", "b"), id="two of them"),
        pytest.param("FROM a\nENV x=<<EOF\nFROM b\n", ("a", "b"), id="only where they exist"),
        pytest.param("\ufeffFROM a\r\nRUN x\r\n", ("a",), id="byte order mark, CRLF"),
        pytest.param("FROM a\nFROM a\n", ("a",), id="once"),
        pytest.param("", (), id="empty"),
        pytest.param("FROM\nFROM $NO\n", (), id="nonsense"),
    ],
)
def test_names_as_written(text: str, names: tuple[str, ...]) -> None:
    assert base_names(text) == names


def test_a_build_argument_chooses_the_base() -> None:
    text = "ARG V=1\nFROM app:$V\n"
    assert base_names(text, {"V": "2"}) == ("app:2",)
    assert base_names("ARG X=1\nFROM app:$V\n", {"V": "2"}) == ("app:",), "only what ARG declares is filled in"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("# syntax=docker/dockerfile:1\nFROM a\n", "FROM a", id="usual"),
        pytest.param("#syntax = x/y\nFROM a\n", "FROM a", id="spaces"),
        pytest.param("# Syntax=x\n# escape=`\nFROM a\n", "FROM a", id="case; others stay"),
        pytest.param("#!/usr/bin/env x\n# syntax=x\nFROM a\n", "FROM a", id="after a shebang"),
        pytest.param("// syntax=x\nFROM a\n", "FROM a", id="other style"),
        pytest.param("\ufeff# check=skip=all\n# syntax=x\nFROM a\n", "FROM a", id="second"),
    ],
)
def test_no_frontend_is_fetched_and_lines_keep_their_numbers(text: str, shown: str) -> None:
    """A build must not fail because a hub can't be reached, nor run a stranger's frontend."""
    result = without_syntax_line(text)
    lines = result.splitlines()
    assert not any("syntax" in line.lower() and "=" in line for line in lines)
    assert lines.index(shown) == text.splitlines().index(shown)
    if "escape" in text:
        assert lines[0] == "# escape=`", "a directive counts only before the first comment"


def test_json_is_no_dockerfile() -> None:
    with pytest.raises(InvalidField):
        without_syntax_line('{"syntax": "x/y"}\n')


def test_a_later_comment_is_left_alone() -> None:
    text = "FROM a\n# syntax=x\nRUN <<E\n# syntax=y\nE\n"
    assert without_syntax_line(text) == text


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("docker.io/library/python:latest", "python"),
        ("library/python:3", "python:3"),
        ("docker.io/org/app:1", "org/app:1"),
        ("ghcr.io/org/app:latest", "ghcr.io/org/app"),
    ],
)
def test_one_image_has_one_short_name(name: str, short: str) -> None:
    assert familiar_name(name) == short


@given(st.text(alphabet=st.sampled_from("FROMARGCOPYUN abc:$\\{}<>-=\n\t#`'\"\r"), max_size=200))
def test_any_text_is_read_without_an_error(text: str) -> None:
    """The source is a stranger's: it may fail to build, never to be read."""
    list(instructions(text))
    base_names(text, {"a": "b"})
