"""API tokens."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

from pydantic import Field

from shellwego.protocol.public.bodies import Answer, Request


class TokenCreate(Request):
    name: Annotated[str, Field(min_length=1, max_length=100)]
    expires_in_days: Annotated[int, Field(ge=1, le=3650)] | None = None


class Token(Answer):
    id: str
    name: str
    created_at: dt.datetime
    expires_at: dt.datetime | None = None
    last_used_at: dt.datetime | None = None


class TokenCreated(Token):
    """`secret` is shown this once; only its hash is kept."""

    secret: str
