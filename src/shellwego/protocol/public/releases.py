"""What a release is made of, and what became of it."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

from pydantic import Field

from shellwego.core.deployments import DeploymentKind
from shellwego.core.health import CheckKind
from shellwego.core.releases import ReleaseState
from shellwego.protocol.public.bodies import Answer, Request, Text


class Health(Request):
    kind: CheckKind = CheckKind.TCP
    path: Annotated[str, Field(max_length=1024, pattern=r"^/")] = "/"
    command: Annotated[list[Text], Field(max_length=64)] = []
    interval_seconds: Annotated[float, Field(ge=0.2, le=3600)] = 5.0
    timeout_seconds: Annotated[float, Field(ge=0.1, le=600)] = 3.0
    start_period_seconds: Annotated[float, Field(ge=0, le=3600)] = 60.0
    retries: Annotated[int, Field(ge=1, le=100)] = 3


class ResourceAmounts(Request):
    memory_mib: Annotated[int, Field(ge=16, le=1 << 20)] = 256
    cpu_millis: Annotated[int, Field(ge=10, le=512_000)] = 500
    pids: Annotated[int, Field(ge=8, le=32_768)] = 256
    disk_mib: Annotated[int, Field(ge=16, le=1 << 20)] = 1024


class ProcessShape(Request):
    """`command` empty: the image's own. A string runs as `/bin/sh -c`, a list as it is."""

    command: Annotated[str, Field(max_length=4096)] | Annotated[list[Text], Field(max_length=256)] = ""
    health: Health | None = None
    resources: ResourceAmounts | None = None


class Release(Answer):
    id: str
    label: str
    number: int
    app: str
    image: str
    processes: dict[str, ProcessShape]
    port: int
    runtime: str
    grace_seconds: float
    config_keys: list[str]
    """Names only; values are read by `GET /v1/apps/{app}/config`."""
    current: bool
    state: ReleaseState
    deployed_as: DeploymentKind | None = None
    """What the newest deployment of it was, as `rollback` for one that was gone back to."""
    deployment: str | None = None
    note: str = ""
    created_by: str = ""
    created_at: dt.datetime
