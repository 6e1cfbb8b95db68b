"""The configuration of an app: the environment of its instances."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from shellwego.protocol.public.bodies import Answer, Request


class Config(Answer):
    """The configuration of the current release."""

    values: dict[str, str]
    release: str | None


class ConfigChange(Request):
    """A value sets, null unsets. Makes a new release and, if the app runs, a deployment of it."""

    values: Annotated[dict[str, str | None], Field(min_length=1, max_length=1000)]
