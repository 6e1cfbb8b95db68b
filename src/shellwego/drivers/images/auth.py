"""What does a registry want to see before it shows an image?

Reads `WWW-Authenticate` (RFC 9110, 11.6.1) and the answers of token services (distribution-spec's token
authentication, as Docker Hub, GitHub, GitLab and Harbor speak it). Pure; the requests are made in distribution.py.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from shellwego.drivers.images.port import Credentials

_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_SCHEME = re.compile(rf"[\s,]*(?P<scheme>{_WORD})(?:\s+|$|(?=,))")
_PARAMETER = re.compile(rf'[\s,]*(?P<key>{_WORD})\s*=\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<plain>{_WORD}))\s*')
_LONGEST_HEADER = 8192


@dataclass(frozen=True, slots=True)
class Challenge:
    """One scheme of a WWW-Authenticate header, in lower case, with its parameters."""

    scheme: str
    parameters: Mapping[str, str]


def parse_challenges(header: str) -> list[Challenge]:
    """Every challenge of the header; a broken tail is ignored, since a good challenge may stand before it."""
    found: list[Challenge] = []
    at = 0
    header = header[:_LONGEST_HEADER]
    while match := _SCHEME.match(header, at):
        at = match.end()
        parameters: dict[str, str] = {}
        while parameter := _PARAMETER.match(header, at):
            at = parameter.end()
            quoted = parameter["quoted"]
            value = parameter["plain"] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            parameters[parameter["key"].lower()] = value
        found.append(Challenge(match["scheme"].lower(), parameters))
    return found


def basic(credentials: Credentials) -> str:
    """The value of an Authorization header (RFC 7617)."""
    pair = f"{credentials.username}:{credentials.password}".encode()
    return "Basic " + base64.b64encode(pair).decode("ascii")


def parse_token(content: bytes) -> str | None:
    """The token of a token service's answer, or None when there is none that could stand in a header.

    How long it lasts doesn't matter: it lives for one pull, and an expired one earns a 401 and a new one.
    """
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    value = document.get("token") or document.get("access_token")
    if not isinstance(value, str) or not re.fullmatch(r"[\x21-\x7e]{1,16384}", value):
        return None
    return value
