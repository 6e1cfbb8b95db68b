"""Signing in, and who is signed in."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from shellwego.protocol.public.bodies import Answer, Request


class Login(Request):
    email: Annotated[str, Field(max_length=254)]
    password: Annotated[str, Field(max_length=1024)]


class Refresh(Request):
    refresh_token: Annotated[str, Field(max_length=512)]


class Session(Answer):
    """`access_token` is an RS256 JWT; a refresh token works once, and using it twice ends its whole session."""

    access_token: str
    token_type: Literal["Bearer"] = "Bearer"  # noqa: S105
    expires_in_seconds: int
    refresh_token: str


class Me(Answer):
    user: str
    email: str
    organisation: str
    organisation_name: str
    operator: bool
    """May see and do what concerns the whole cloud: nodes, image mappings, organisations."""
    token: str | None = None
