"""Organisations and their users."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

from pydantic import Field

from shellwego.protocol.public.bodies import Answer, Name, Request


class OrganisationCreate(Request):
    name: Name


class Organisation(Answer):
    id: str
    name: str
    created_at: dt.datetime


class UserCreate(Request):
    email: Annotated[str, Field(min_length=3, max_length=254, pattern=r"^[^@\s]+@[^@\s]+$")]
    password: Annotated[str, Field(min_length=12, max_length=1024)]
    organisation: Annotated[str, Field(max_length=63)]


class User(Answer):
    id: str
    email: str
    organisation: str
    operator: bool
    created_at: dt.datetime
