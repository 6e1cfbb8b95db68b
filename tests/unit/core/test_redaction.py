"""What an app prints of its secrets is not shown; what it prints of anything else is."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from shellwego.core.redaction import Redaction, is_secret_name, secret_variables

PEM = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0B\nshort\n-----END PRIVATE KEY-----\n"

# Few letters, so that secrets overlap, begin alike and repeat; no bracket, so that none is a part of a mark.
words = st.text("ab.*\\%é ", min_size=8, max_size=30).filter(lambda text: len(text.strip()) >= 8)
secrets = st.lists(words, min_size=1, max_size=5)


def redaction_of(values: list[str]) -> Redaction:
    return Redaction((f"N{number}", value) for number, value in enumerate(values))


SECRET_NAMES = """PASSWORD DB_PASSWORD PGPASSWORD MYSQL_PWD SMTP_PASS API_KEY apikey STRIPE_KEY_2 GITHUB_TOKEN
    AWS_SECRET_ACCESS_KEY SENTRY_DSN BASIC_AUTH TLS_PRIVATE GOOGLE_CREDENTIALS DJANGO_SECRET"""
OTHER_NAMES = "MODE DATABASE_URL AUTHOR KEYCLOAK_URL MONKEY COMPASS PASSPORT_SIZE PWDX"


@pytest.mark.parametrize("name", SECRET_NAMES.split())
def test_names_that_say_secret(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize("name", OTHER_NAMES.split())
def test_names_that_don_t(name: str) -> None:
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    ("value", "printed", "shown"),
    [
        ("postgres://app:correct-horse@db/x", "to app:correct-horse@db", "to app:[secret URL]@db"),
        ("redis://:p%40ssw0rd!@cache", "AUTH p@ssw0rd! p%40ssw0rd!", "AUTH [secret URL] [secret URL]"),
        ("a://u:first-one@b,a://u:other-one@c", "first-one other-one", "[secret URL] [secret URL]"),
        ("jdbc:postgresql://db/x?user=a&password=correct-horse&ssl=1", "correct-horse", "[secret URL]"),
        ("Server=db;Password=correct-horse;", "correct-horse", "[secret URL]"),
        ("postgres://app:short@db/application", "short application", "short application"),
        ("http://localhost:8080/path?to=me@example.com", "8080/path?to=me", "8080/path?to=me"),
    ],
)
def test_the_password_inside_a_value(value: str, printed: str, shown: str) -> None:
    assert Redaction.of_config({"URL": value})(printed) == shown


def test_only_what_holds_a_secret_counts() -> None:
    config = {"MODE": "production", "PIN_TOKEN": "1234567", "API_KEY": "12345678", "URL": "a://b:12345678@c"}
    assert secret_variables(config) == {"API_KEY": "12345678", "URL": "a://b:12345678@c"}


@pytest.mark.parametrize("printed", [*PEM.splitlines()[:2], repr(PEM), base64.b64encode(PEM.encode()).decode()])
def test_a_key_is_hidden_by_its_lines_and_in_one_line(printed: str) -> None:
    assert "MIIE" not in Redaction([("KEY", PEM)])(printed)
    assert "TUlJRXZ" not in Redaction([("KEY", PEM)])(printed)


def test_the_longest_secret_that_fits_is_the_one() -> None:
    redact = Redaction([("A", "password"), ("B", "password-and-more")])
    assert redact("password-and-more, password-and") == "[secret B], [secret A]-and"


def test_a_value_that_is_its_own_name_is_no_secret() -> None:
    """Or a mark would be found in a mark."""
    redact = Redaction([("SECRET_KEY", "SECRET_KEY"), ("OTHER", "correct-horse")])
    assert redact(redact("SECRET_KEY correct-horse")) == "SECRET_KEY [secret OTHER]"


@given(secrets, st.lists(st.one_of(words, st.text(max_size=10)), max_size=8))
def test_no_secret_survives_however_it_is_written(values: list[str], around: list[str]) -> None:
    """Also one that looks like a pattern: it means itself."""
    spellings = [
        spelled
        for value in values
        for spelled in (
            value,
            quote(value, safe=""),
            json.dumps(value)[1:-1],
            base64.b64encode(value.encode()).decode().rstrip("="),
        )
    ]
    text = "|".join(part for pair in zip(spellings, [*around, *spellings], strict=False) for part in pair)
    shown = redaction_of(values)(text)
    assert not any(spelled.strip() in shown for spelled in spellings)


@given(secrets, st.text())
def test_a_text_without_secrets_is_as_it_was(values: list[str], text: str) -> None:
    assume(not any(value.strip() in text for value in values))
    assert redaction_of([f"{value}\N{SNOWMAN}" for value in values])(text) == text


@given(secrets, st.lists(words | st.text("ab.*", max_size=5), max_size=12))
def test_pieces_of_a_line_are_as_safe_as_the_whole(values: list[str], pieces: list[str]) -> None:
    """A secret that the writer cut in two is no less one, and nothing but secrets goes."""
    redact, shown, rest = redaction_of(values), "", ""
    for piece in pieces:
        told, rest = redact.split(rest + piece)
        shown += told
    shown += redact(rest)
    whole = "".join(pieces)
    assert not any(value.strip() in shown for value in values)
    if not any(value.strip() in whole for value in values):
        assert shown == whole


def test_the_longest_spelling_may_be_cut_anywhere() -> None:
    redact, spelled = redaction_of(["correct-horse"]), base64.b64encode(b"correct-horse").decode().rstrip("=")
    for cut in range(1, len(spelled)):
        told, rest = redact.split("before " + spelled[:cut])
        assert told + redact(rest + spelled[cut:]) == "before [secret N0]"
