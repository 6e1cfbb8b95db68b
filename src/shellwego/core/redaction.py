"""Which values of an app's configuration are secret, and what is left of a text without them?

Pure, and cheap for ordinary lines: apps print without end, what they print is hostile, and so may be what their
owners call a secret. The agent asks it of logs and of what checks say, the builder of what a build prints.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import quote, unquote

SHORTEST_SECRET = 8
"""Characters. A shorter value can't be told from a word: to hide `admin` or `8080` would garble every other line."""

_LONGEST_SPELLED = 4096
"""A longer value is only looked for as it is: so much of a line that has no end yet has to be held back."""

_SECRET_NAME = re.compile(
    r"PASSWORD|PASSWD|PASSPHRASE|SECRET|TOKEN|CREDENTIAL|API_?KEY|(?<![A-Z])(?:KEYS?|PASS|PWD|DSN|AUTH|PRIVATE)(?![A-Z])",
    re.IGNORECASE,
)
_PASSWORDS_INSIDE = (
    re.compile(r"://[^\s/?#@:]*:([^\s/?#]+)@"),  # scheme://user:password@host (RFC 3986, userinfo)
    re.compile(r"\b(?:password|passwd|pwd)=([^\s;&\"']+)", re.IGNORECASE),  # ...?password=..., and Password=...;
)


def is_secret_name(name: str) -> bool:
    """Whether a variable of this name holds a secret, by what people call such variables."""
    return _SECRET_NAME.search(name) is not None


def secrets_in(config: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The secrets in variables, each with its variable's name: whole values, or the passwords inside."""
    for name, value in config.items():
        passwords = [password for pattern in _PASSWORDS_INSIDE for password in pattern.findall(value)]
        found = [*passwords, *map(unquote, passwords), *([value] if is_secret_name(name) else ())]
        yield from ((name, secret) for secret in found if len(secret.strip()) >= SHORTEST_SECRET)


def secret_variables(config: Mapping[str, str]) -> dict[str, str]:
    """Those of the variables that hold a secret."""
    return {name: config[name] for name, _ in secrets_in(config)}


class Redaction:
    """
    Call it with a text to have each secret replaced by `[secret NAME]`. A secret is also found as JSON, URL and base64
    spell it, and a longer one (a key, a file) by each of its lines.
    """

    def __init__(self, secrets: Iterable[tuple[str, str]] = ()) -> None:
        """Pairs of a name and what may not be shown."""
        marks: dict[str, str] = {}
        for name, secret in secrets:
            for form in _forms(secret):
                marks.setdefault(form, f"[secret {name}]")
        # A value that its own mark says again is no secret, and would be found in the mark.
        self._marks = {form: mark for form, mark in marks.items() if form not in mark}
        self._longest_first = sorted(self._marks, key=len, reverse=True)
        self._longest = len(self._longest_first[0]) if self._marks else 0

    @classmethod
    def of_config(cls, config: Mapping[str, str]) -> Redaction:
        return cls(secrets_in(config))

    def __call__(self, text: str) -> str:
        pattern = self._pattern(text)
        return text if pattern is None else pattern.sub(lambda match: self._marks[match[0]], text)

    def split(self, text: str) -> tuple[str, str]:
        """
        For text that goes on: what of it can be shown already, without secrets, and its end as it is, in which a
        secret may have begun. The end belongs in front of what comes next.
        """
        cut = len(text) - max(0, self._longest - 1)
        if cut <= 0:
            return "", text
        pattern = self._pattern(text)
        for match in pattern.finditer(text) if pattern is not None else ():
            if match.start() < cut < match.end():
                cut = match.end()
        return self(text[:cut]), text[cut:]

    def _pattern(self, text: str) -> re.Pattern[str] | None:
        # One pattern of all secrets would be asked at every character of every line. To look for one string after the
        # other takes a third of that, and most lines hold none of them.
        present = [form for form in self._longest_first if form in text]
        return re.compile("|".join(map(re.escape, present))) if present else None


def _forms(secret: str) -> set[str]:
    """How a secret may stand in a text."""
    text = secret.strip()
    forms = {text, *(line for line in map(str.strip, text.splitlines()) if len(line) >= SHORTEST_SECRET)}
    forms |= {
        quote(text, safe="", errors="replace"),
        json.dumps(text)[1:-1],
        json.dumps(text, ensure_ascii=False)[1:-1],
    }
    for raw in {secret.encode(errors="replace"), text.encode(errors="replace")}:
        forms |= {encode(raw).decode().rstrip("=") for encode in (base64.b64encode, base64.urlsafe_b64encode)}
    return forms - {""}
