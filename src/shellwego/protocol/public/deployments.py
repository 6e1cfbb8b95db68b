"""What is asked of a deployment, and how it goes."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Literal

from pydantic import Field

from shellwego.core.deployments import DeploymentKind, DeploymentState
from shellwego.protocol.public.bodies import Answer, Count, Process, Request, Text
from shellwego.protocol.public.releases import Health, ProcessShape, ResourceAmounts


class RegistryLogin(Request):
    username: Annotated[str, Field(max_length=256)]
    password: Annotated[str, Field(max_length=4096)]


class BuildOptions(Request):
    dockerfile: Annotated[str, Field(max_length=1024)] | None = None
    target: Annotated[str, Field(max_length=128)] | None = None
    args: Annotated[dict[str, Text], Field(max_length=100)] = {}
    secrets: Annotated[dict[str, Annotated[str, Field(max_length=65536)]], Field(max_length=32)] = {}
    no_cache: bool = False
    trusted: bool = False


class DeploymentCreate(Request):
    """
    Exactly one of `image`, `source` (an uploaded source's id), `release` (a label such as `v3`, or `previous`: a
    rollback, with that release's image and configuration), or none of them: the current image again, as after
    `config set` or for a restart. What is left out of the rest stays as in the current release.
    """

    image: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    registry_login: RegistryLogin | None = None
    source: Annotated[str, Field(max_length=64)] | None = None
    release: Annotated[str, Field(max_length=32)] | None = None
    build: BuildOptions | None = None
    processes: Annotated[dict[Process, ProcessShape], Field(max_length=20)] | None = None
    health: Health | None = None
    """For process types that name none of their own; HTTP and TCP checks only ever apply to those with a port."""
    resources: ResourceAmounts | None = None
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    runtime: Annotated[str, Field(max_length=40)] | None = None
    grace_seconds: Annotated[float, Field(ge=0, le=3600)] | None = None
    config: dict[str, str | None] | None = None
    """Changes to the configuration, in the same release: a value sets, null unsets."""
    replicas: dict[Process, Count] | None = None
    note: Annotated[str, Field(max_length=500)] = ""


class Deployment(Answer):
    """`reason` and `last_lines` say why a failed one failed. `step` is for people, e.g. `2 of 3 instances healthy`."""

    id: str
    app: str
    kind: DeploymentKind
    state: DeploymentState
    step: str = ""
    release: str | None = None
    previous_release: str | None = None
    source: str | None = None
    image: str | None = None
    reason: str = ""
    code: str = ""
    last_lines: list[str] = []
    note: str = ""
    created_by: str = ""
    created_at: dt.datetime
    finished_at: dt.datetime | None = None


class DeploymentEvent(Answer):
    """
    One event of `GET /v1/apps/{app}/deployments/{id}/events` (SSE). The last is `finished`, with the deployment. The
    text of a `build_log` is one or more lines, as many as were there.
    """

    kind: Literal["state", "build_log", "instance", "finished"]
    at: dt.datetime
    text: str = ""
    deployment: Deployment | None = None
