"""Registries ask for credentials in many dialects; misreading one locks people out of their own images."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shellwego.drivers.images.auth import Challenge, parse_challenges, parse_token

BEARER = {"realm": "https://auth.example/token", "service": "r.example", "scope": "repository:a/b:pull,push"}


@pytest.mark.parametrize(
    ("header", "challenges"),
    [
        ("", []),
        ("Basic", [Challenge("basic", {})]),
        ('Basic realm="x"', [Challenge("basic", {"realm": "x"})]),
        (
            'Bearer realm="https://auth.example/token",service="r.example",scope="repository:a/b:pull,push"',
            [Challenge("bearer", BEARER)],
        ),
        (
            'bEaReR  Realm = "https://auth.example/token" , SERVICE=r.example',
            [Challenge("bearer", {"realm": "https://auth.example/token", "service": "r.example"})],
        ),
        (
            'Basic realm="a, b=\\"c\\"", Bearer realm="t"',
            [Challenge("basic", {"realm": 'a, b="c"'}), Challenge("bearer", {"realm": "t"})],
        ),
        ('Negotiate, Basic realm="x"', [Challenge("negotiate", {}), Challenge("basic", {"realm": "x"})]),
    ],
)
def test_reads_challenges(header: str, challenges: list[Challenge]) -> None:
    assert parse_challenges(header) == challenges


@settings(deadline=None)
@given(st.text(alphabet='Bearer ="\\,\t x', max_size=60))
def test_any_header_is_survived(header: str) -> None:
    parse_challenges(header)


@pytest.mark.parametrize(
    ("content", "token"),
    [
        (b'{"token": "abc"}', "abc"),
        (b'{"access_token": "abc", "expires_in": 300}', "abc"),
        (b'{"token": "", "access_token": "x"}', "x"),
        (b'{"token": "a\\r\\nX-Evil: 1"}', None),
        (b'{"token": 7}', None),
        (b"[]", None),
        (b"<html>", None),
        (b"[" * 50_000, None),
    ],
)
def test_reads_tokens(content: bytes, token: str | None) -> None:
    """A token goes into a header as it is, so it must not be able to end that header."""
    assert parse_token(content) == token
