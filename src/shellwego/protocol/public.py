"""What does the public API take and give?

The bodies of `/v1`, one model each, used by the server (which publishes them as OpenAPI) and by the Python client
alike, so the two can't drift. Requests refuse unknown fields; answers may grow fields. Times are RFC 3339 in UTC,
durations are seconds, memory is MiB, CPU is thousandths of a core.
"""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from shellwego.core.apps import MAXIMUM_INSTANCES, AppStatus
from shellwego.core.deployments import DeploymentKind, DeploymentState
from shellwego.core.health import CheckKind
from shellwego.core.instances import InstanceGoal, InstanceState
from shellwego.core.nodes import NodeState
from shellwego.core.releases import ReleaseState

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


class FieldProblem(Answer):
    field: str
    problem: str
    line: int | None = None


class Problem(Answer):
    """RFC 9457 problem details; `code` is stable (docs/reference/errors.md)."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    retryable: bool = False
    request_id: str | None = None
    errors: list[FieldProblem] = []


# --- what a release is made of ------------------------------------------------------------------------------------


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


# --- apps ---------------------------------------------------------------------------------------------------------


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


# --- sources, deployments, releases -------------------------------------------------------------------------------


class Source(Answer):
    """A packed source folder (tar, gzip or zstd), streamed to `POST /v1/apps/{app}/sources`."""

    id: str
    size_bytes: int
    sha256: str
    created_at: dt.datetime


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


class Config(Answer):
    """The configuration of the current release."""

    values: dict[str, str]
    release: str | None


class ConfigChange(Request):
    """A value sets, null unsets. Makes a new release and, if the app runs, a deployment of it."""

    values: Annotated[dict[str, str | None], Field(min_length=1, max_length=1000)]


# --- instances and nodes ------------------------------------------------------------------------------------------


class Instance(Answer):
    """`state` and what follows were seen by the node at `observed_at`; `stale` says it is silent since."""

    id: str
    app: str
    app_name: str
    release: str
    process: str
    goal: InstanceGoal
    state: InstanceState
    reason: str = ""
    node: str | None = None
    node_name: str | None = None
    address: str | None = None
    port: int | None = None
    restarts: int = 0
    exit_reason: str | None = None
    exit_code: int | None = None
    started_at: dt.datetime | None = None
    created_at: dt.datetime
    observed_at: dt.datetime | None = None
    stale: bool = False


class Node(Answer):
    id: str
    name: str
    state: NodeState
    version: str
    runtimes: list[str]
    memory_mib: int
    memory_used_mib: int
    """Promised to instances, not measured."""
    cpu_millis: int
    cpu_used_millis: int
    disk_free_mib: int
    disk_total_mib: int
    instances: int
    unclaimed: list[str] = []
    """Instances that run there and that this server knows nothing of. They are never removed by themselves."""
    warnings: list[str] = []
    last_seen_at: dt.datetime | None = None


# --- logs and exec ------------------------------------------------------------------------------------------------


class LogEntry(Answer):
    """A line of `GET /v1/apps/{app}/logs`: JSON lines, SSE with `Accept: text/event-stream`, or WebSocket messages."""

    at: dt.datetime
    instance: str
    process: str
    release: str
    stream: Literal["stdout", "stderr"]
    text: str


# `GET /v1/instances/{id}/exec?command=...&command=...&tty=true&columns=80&rows=24` upgrades to a WebSocket with the
# subprotocol `shellwego.exec.v1`. Binary messages start with a channel byte: 0 stdin (empty: end of it), 1 stdout,
# 2 stderr. Text messages are JSON: {"resize": {"columns": 80, "rows": 24}} or {"signal": 2} to the server,
# {"exit": 0} or {"problem": Problem} from it, as the last message.

# --- people and tokens --------------------------------------------------------------------------------------------


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


# --- the cloud itself ---------------------------------------------------------------------------------------------


class ImageMapping(Request):
    """`pattern` (as `python:3*`, fnmatch) is what a Dockerfile or deploy names; `image` stands in for it here."""

    pattern: Annotated[str, Field(min_length=1, max_length=256)]
    image: Annotated[str, Field(min_length=1, max_length=512)]


class HealthPart(Answer):
    name: str
    ok: bool
    detail: str = ""


class HealthAnswer(Answer):
    """`GET /health`: 200 when every part is ok, 503 otherwise. Each part was asked for this answer."""

    ok: bool
    version: str
    parts: list[HealthPart]


class CloudStatus(Answer):
    """`GET /v1/status`: the whole cloud in one answer, for `shellwego status`."""

    version: str
    domain: str
    apps: dict[str, int]
    """How many apps are in each status."""
    instances: dict[str, int]
    nodes: list[Node]
    edges: list[dict[str, Any]]
    problems: list[str]
    """What an operator should look at now, each with what to do."""
