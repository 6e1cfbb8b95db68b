"""What has every body in common?

Requests refuse unknown fields; answers may grow fields.
"""

from __future__ import annotations

from typing import Annotated, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from shellwego.core.apps import MAXIMUM_INSTANCES

T = TypeVar("T")
Count = Annotated[int, Field(ge=0, le=MAXIMUM_INSTANCES)]
Name = Annotated[str, Field(min_length=1, max_length=63)]
Process = Annotated[str, Field(min_length=1, max_length=40)]
Text = Annotated[str, Field(max_length=4096)]


class Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class Request(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Page(Answer, Generic[T]):
    """`next_cursor` is None on the last page; pass it back as `?cursor=` for the next."""

    items: list[T]
    next_cursor: str | None = None
