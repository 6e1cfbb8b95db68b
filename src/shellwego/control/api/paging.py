"""How is a long list read in pieces?

A cursor names the last row seen, not a number of rows, so what is added meanwhile neither repeats nor hides anything.
It is opaque to clients and checked like any other input.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import json
from collections.abc import Sequence
from typing import Annotated, TypeVar

from fastapi import Query

from shellwego.core.errors import InvalidField

T = TypeVar("T")

Limit = Annotated[int, Query(ge=1, le=200, description="At most so many items.")]
Cursor = Annotated[str | None, Query(max_length=1024, description="`next_cursor` of the page before.")]
DEFAULT_LIMIT = 50


def cursor_of(*keys: str | int | dt.datetime) -> str:
    """What `keys_of` reads back."""
    plain = [key.isoformat() if isinstance(key, dt.datetime) else key for key in keys]
    return base64.urlsafe_b64encode(json.dumps(plain).encode()).decode().rstrip("=")


def text_key(cursor: str | None) -> str | None:
    """The key of a list in the order of names. Raises InvalidField."""
    if cursor is None:
        return None
    (key,) = _keys_of(cursor, 1)
    if not isinstance(key, str) or not key.isprintable():
        raise _bad()
    return key


def number_key(cursor: str | None) -> int | None:
    """The key of a list in the order of numbers. Raises InvalidField."""
    if cursor is None:
        return None
    (key,) = _keys_of(cursor, 1)
    if not isinstance(key, int) or isinstance(key, bool) or not 0 <= key < 2**31:
        raise _bad()
    return key


def time_key(cursor: str | None) -> tuple[dt.datetime, str] | None:
    """The key of a list in the order of time. Raises InvalidField."""
    if cursor is None:
        return None
    at, id = _keys_of(cursor, 2)
    if not (isinstance(at, str) and isinstance(id, str) and id.isprintable()):
        raise _bad()
    try:
        time = dt.datetime.fromisoformat(at)
    except ValueError as error:
        raise _bad() from error
    if time.tzinfo is None:
        raise _bad()
    return time, id


def cut(rows: Sequence[T], limit: int) -> tuple[Sequence[T], T | None]:
    """The rows of this page, and its last one if there are more: ask for `limit + 1` to know."""
    return (rows[:limit], rows[limit - 1]) if len(rows) > limit else (rows, None)


def _keys_of(cursor: str, count: int) -> list[object]:
    try:
        keys = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError) as error:
        raise _bad() from error
    if not isinstance(keys, list) or len(keys) != count:
        raise _bad()
    return keys


def _bad() -> InvalidField:
    return InvalidField("cursor", "is not a cursor of this list. Begin without one.")
