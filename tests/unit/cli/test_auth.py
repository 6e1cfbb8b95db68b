"""Signing in and out: what is remembered, what is told, and what never reaches the screen."""

from __future__ import annotations

import json

import pytest
from tests.unit.cli.command_line import CommandLine
from tests.unit.client.fake_cloud import URL

from shellwego.client import LoginStore


@pytest.fixture
def nobody(shellwego: CommandLine, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    """A shell in which nothing is set."""
    monkeypatch.delenv("SHELLWEGO_URL")
    monkeypatch.delenv("SHELLWEGO_TOKEN")
    return shellwego


@pytest.mark.parametrize(
    ("words", "stdin"),
    [
        (("--email", "ann@acme.test", "--password-stdin"), "correct horse\n"),
        (("--password-stdin",), "ann@acme.test\ncorrect horse\n"),  # as in DIR/admin-password
    ],
)
def test_a_session_lasts_over_commands_and_ends_with_logout(
    nobody: CommandLine, words: tuple[str, ...], stdin: str
) -> None:
    ran = nobody("auth", "login", "--url", URL, *words, stdin=stdin)
    assert ran.code == 0
    assert f"Signed in to {URL} as ann@acme.test, of acme." in ran.err
    assert nobody("apps", "list").code == 0
    assert json.loads(nobody("auth", "status", "-o", "json").out)["url"] == URL
    assert nobody.cloud.refresh_tokens
    assert nobody("auth", "logout").code == 0
    assert not nobody.cloud.refresh_tokens
    assert nobody("apps", "list").code == 2
    assert "not signed in" in nobody("auth", "logout").err


def test_a_token_is_checked_before_it_is_kept(nobody: CommandLine) -> None:
    assert nobody("auth", "login", "--url", URL, "--token-stdin", stdin="bad\n").code == 4
    assert LoginStore().current() is None
    assert nobody("auth", "login", "--url", URL, "--token-stdin", stdin="good\n").code == 0
    assert nobody("auth", "status").code == 0


def test_a_wrong_password_is_told_and_nothing_kept(nobody: CommandLine) -> None:
    ran = nobody("auth", "login", "--url", URL, "--email", "a@b.c", "--password-stdin", stdin="wrong\n")
    assert ran.code == 4
    assert "wrong" in ran.err
    assert LoginStore().current() is None


def test_where_nobody_can_be_asked_it_says_which_flag(nobody: CommandLine) -> None:
    assert "--url" in nobody("auth", "login").err
    assert "--email" in nobody("auth", "login", "--url", URL).err
    assert "--password-stdin" in nobody("auth", "login", "--url", URL, "--email", "a@b.c").err


def test_a_session_that_is_over_says_how_to_begin_another(nobody: CommandLine) -> None:
    nobody("auth", "login", "--url", URL, "--password-stdin", stdin="ann@acme.test\ncorrect horse\n")
    nobody.cloud.accepted_tokens.clear()
    nobody.cloud.refresh_tokens.clear()
    ran = nobody("apps", "list")
    assert ran.code == 4
    assert f"shellwego auth login --url {URL}" in ran.err


def test_the_environment_goes_before_the_login_and_says_so(
    nobody: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHELLWEGO_TOKEN", "bad")
    ran = nobody("auth", "login", "--url", URL, "--token-stdin", stdin="good\n")
    assert "goes before it" in ran.err
    assert nobody("apps", "list").code == 4


def test_logging_out_works_while_the_cloud_is_down(nobody: CommandLine) -> None:
    nobody("auth", "login", "--url", URL, "--password-stdin", stdin="ann@acme.test\ncorrect horse\n")
    nobody.cloud.accepted_tokens.clear()
    ran = nobody("auth", "logout")
    assert ran.code == 0
    assert "Signed out" in ran.err
    assert LoginStore().current() is None
