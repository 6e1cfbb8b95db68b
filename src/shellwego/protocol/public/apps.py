"""An app, and what may be wished of it."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

from pydantic import Field

from shellwego.core.apps import AppStatus
from shellwego.protocol.public.bodies import Answer, Count, Name, Process, Request


class AppCreate(Request):
    # In the document only: `core.apps` refuses, in words.
    name: Annotated[Name, Field(json_schema_extra={"pattern": "^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$"})]


class AppUpdate(Request):
    """`replicas` changes only the process types it names."""

    replicas: dict[Process, Count] | None = None


class ProcessStatus(Answer):
    """`desired` is the wish; `healthy` and `total` were seen."""

    desired: int
    healthy: int
    total: int


class App(Answer):
    id: str
    name: str
    status: AppStatus
    status_reason: str = ""
    url: str
    hosts: list[str]
    processes: dict[str, ProcessStatus]
    release: str | None = None
    image: str | None = None
    deployment: str | None = None
    """Id of the newest deployment."""
    created_at: dt.datetime
    updated_at: dt.datetime
