"""What is each thing called, once and for all?

An id is a three-letter kind, an underscore and 20 random characters of lower-case base 32: readable, safe in
URLs, file names, host names and cgroup paths, and always of one length, because runsc matches container ids
by prefix. Ids sort by nothing; time is a column of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NewType

OrganisationId = NewType("OrganisationId", str)
UserId = NewType("UserId", str)
TokenId = NewType("TokenId", str)
AppId = NewType("AppId", str)
SourceId = NewType("SourceId", str)
ReleaseId = NewType("ReleaseId", str)
DeploymentId = NewType("DeploymentId", str)
InstanceId = NewType("InstanceId", str)
NodeId = NewType("NodeId", str)
CloudId = NewType("CloudId", str)

KINDS = {
    "organisation": "org",
    "user": "usr",
    "token": "tok",
    "app": "app",
    "source": "src",
    "release": "rel",
    "deployment": "dep",
    "instance": "ins",
    "node": "nod",
    "cloud": "cld",
    "event": "evt",
    "session": "ses",
}

_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
_LENGTH = 20
_LETTERS = bytes(ord(_ALPHABET[byte & 31]) for byte in range(256))
_PATTERN = re.compile(rf"[a-z]{{3}}_[{_ALPHABET}]{{{_LENGTH}}}")

RandomBytes = Callable[[int], bytes]
"""`secrets.token_bytes` in production; a seeded source in tests and simulations."""


def new_id(kind: str, random_bytes: RandomBytes) -> str:
    """A fresh id of that kind (a key of KINDS): 100 random bits, so two never meet."""
    return f"{KINDS[kind]}_{random_bytes(_LENGTH).translate(_LETTERS).decode()}"


def is_id(text: str, kind: str) -> bool:
    """Whether the text has the form of an id of that kind. A name never has: names hold no underscore."""
    return _PATTERN.fullmatch(text) is not None and text.startswith(KINDS[kind] + "_")
