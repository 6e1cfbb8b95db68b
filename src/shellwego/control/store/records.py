"""What goes into the store and comes out of it?

Plain frozen values, one per table; nobody outside `store` sees a row or a session. Where a planner needs less, a
record says how it looks from there (`InstanceRecord.planned`, `ReleaseRecord.release`).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shellwego.core.apps import WEB
from shellwego.core.deployments import DeploymentKind, DeploymentState
from shellwego.core.ids import (
    AppId,
    CloudId,
    DeploymentId,
    InstanceId,
    NodeId,
    OrganisationId,
    ReleaseId,
    SourceId,
    TokenId,
    UserId,
)
from shellwego.core.instances import ExitReason, Instance, InstanceGoal, InstanceState
from shellwego.core.nodes import UNREACHABLE_AFTER_SECONDS, Node, NodeState
from shellwego.core.releases import ProcessType, Release, RuntimeClass


@dataclass(frozen=True, slots=True)
class CloudRecord:
    """The cloud itself, once. `assignment_epoch` grows with every start of a server."""

    id: CloudId
    domain: str
    created_at: dt.datetime
    assignment_epoch: int = 0


@dataclass(frozen=True, slots=True)
class OrganisationRecord:
    id: OrganisationId
    name: str
    created_at: dt.datetime


@dataclass(frozen=True, slots=True)
class UserRecord:
    id: UserId
    organisation: OrganisationId
    email: str
    password_hash: str = field(repr=False)
    created_at: dt.datetime
    operator: bool = False
    disabled_at: dt.datetime | None = None


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """One sign-in. The hash before the current one is kept, so that a stolen and used refresh token shows."""

    id: str
    user: UserId
    refresh_hash: str = field(repr=False)
    created_at: dt.datetime
    expires_at: dt.datetime
    previous_refresh_hash: str | None = field(default=None, repr=False)
    revoked_at: dt.datetime | None = None


@dataclass(frozen=True, slots=True)
class TokenRecord:
    id: TokenId
    organisation: OrganisationId
    user: UserId
    name: str
    secret_hash: str = field(repr=False)
    created_at: dt.datetime
    expires_at: dt.datetime | None = None
    last_used_at: dt.datetime | None = None
    revoked_at: dt.datetime | None = None


@dataclass(frozen=True, slots=True)
class AppRecord:
    """
    `current_release` is the last one whose deployment succeeded. `pending_config_ciphertext` is configuration that
    was set before there was any release; the first one takes it in.
    """

    id: AppId
    organisation: OrganisationId
    name: str
    created_at: dt.datetime
    updated_at: dt.datetime
    stopped: bool = False
    deleting_at: dt.datetime | None = None
    deleted_at: dt.datetime | None = None
    current_release: ReleaseId | None = None
    next_release_number: int = 1
    pending_config_ciphertext: bytes | None = field(default=None, repr=False)

    @property
    def wants_instances(self) -> bool:
        return not self.stopped and self.deleting_at is None


@dataclass(frozen=True, slots=True)
class SourceRecord:
    """`path` is relative to the server's directory of sources."""

    id: SourceId
    organisation: OrganisationId
    app: AppId
    path: str
    size_bytes: int
    sha256: str
    created_at: dt.datetime


@dataclass(frozen=True, slots=True)
class ReleaseSpec:
    """
    All of a release but its image and configuration: what `releases.spec` holds as JSON. What was found in the source
    or image, rather than asked for, isn't carried over to another image.
    """

    processes: tuple[ProcessType, ...] = (ProcessType(WEB),)
    port: int = 8080
    runtime: str = RuntimeClass.GVISOR
    grace_seconds: float = 10.0
    commands_found: bool = False
    port_found: bool = False

    def process(self, name: str) -> ProcessType | None:
        return next((process for process in self.processes if process.name == name), None)


@dataclass(frozen=True, slots=True)
class ReleaseRecord:
    """Immutable. `config_ciphertext` is bound to `id`: it can't be read as another release's."""

    id: ReleaseId
    organisation: OrganisationId
    app: AppId
    number: int
    image: str
    spec: ReleaseSpec
    config_ciphertext: bytes = field(repr=False)
    created_at: dt.datetime
    config_keys: tuple[str, ...] = ()
    deployment: DeploymentId | None = None
    note: str = ""
    created_by: str = ""

    @property
    def label(self) -> str:
        return f"v{self.number}"

    @property
    def release(self) -> Release:
        """As the planners see it."""
        return Release(
            id=self.id,
            app=self.app,
            number=self.number,
            image=self.image,
            processes=self.spec.processes,
            port=self.spec.port,
            runtime=self.spec.runtime,
            grace_seconds=self.spec.grace_seconds,
        )


@dataclass(frozen=True, slots=True)
class DeploymentRecord:
    """
    `request` is the wanted change of shape, without secrets; `options_ciphertext` holds what may not lie about in
    the clear (changes of the configuration, build arguments and secrets, a registry login), bound to `id`.
    `base_release` is what the request changes; `previous_release` is what served when it began.
    """

    id: DeploymentId
    organisation: OrganisationId
    app: AppId
    kind: DeploymentKind
    state: DeploymentState
    created_at: dt.datetime
    step: str = ""
    reason: str = ""
    code: str = ""
    last_lines: tuple[str, ...] = ()
    image_reference: str | None = None
    source: SourceId | None = None
    release: ReleaseId | None = None
    base_release: ReleaseId | None = None
    previous_release: ReleaseId | None = None
    options_ciphertext: bytes | None = field(default=None, repr=False)
    request: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    created_by: str = ""
    attempt: int = 0
    started_at: dt.datetime | None = None
    finished_at: dt.datetime | None = None


@dataclass(frozen=True, slots=True)
class InstanceRecord:
    """
    `goal` is written by the control plane alone, what was observed by reports of the node alone. `generation` is
    that of the assignment under which it was last reported. `deployment` is the one that made it: a restart replaces
    instances of the same release, and this tells the new ones from the old.
    """

    id: InstanceId
    organisation: OrganisationId
    app: AppId
    release: ReleaseId
    process: str
    created_at: dt.datetime
    deployment: DeploymentId | None = None
    node: NodeId | None = None
    goal: InstanceGoal = InstanceGoal.RUN
    state: InstanceState = InstanceState.PENDING
    reason: str = ""
    address: str | None = None
    port: int | None = None
    restarts: int = 0
    exit_reason: ExitReason | None = None
    exit_code: int | None = None
    started_at: dt.datetime | None = None
    drained_at: dt.datetime | None = None
    last_lines: tuple[str, ...] = ()
    observed_at: dt.datetime | None = None
    generation: int = 0
    removed_at: dt.datetime | None = None

    @property
    def planned(self) -> Instance:
        """As the planners see it."""
        return Instance(
            id=self.id,
            release=self.release,
            process=self.process,
            goal=self.goal,
            state=self.state,
            node=self.node,
            restarts=self.restarts,
            drained=self.drained_at is not None,
        )


@dataclass(frozen=True, slots=True)
class NodeRecord:
    id: NodeId
    name: str
    created_at: dt.datetime
    version: str = ""
    runtimes: tuple[str, ...] = ()
    memory_mib: int = 0
    cpu_millis: int = 0
    disk_free_mib: int = 0
    disk_total_mib: int = 0
    assignment_generation: int = 0
    unclaimed: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    unfit: str = ""
    """Why nothing can start there now, in the node's own words."""
    last_seen_at: dt.datetime | None = None

    def state(self, now: dt.datetime) -> NodeState:
        silent = None if self.last_seen_at is None else (now - self.last_seen_at).total_seconds()
        if silent is None or silent > UNREACHABLE_AFTER_SECONDS:
            return NodeState.UNREACHABLE
        return NodeState.UNHEALTHY if self.unfit else NodeState.READY

    def planned(self, now: dt.datetime) -> Node:
        """As the planners see it."""
        return Node(
            id=self.id,
            state=self.state(now),
            memory_mib=self.memory_mib,
            cpu_millis=self.cpu_millis,
            runtimes=frozenset(self.runtimes),
        )


@dataclass(frozen=True, slots=True)
class EdgeRecord:
    id: str
    version: str = ""
    generation: int = 0
    problems: tuple[str, ...] = ()
    last_seen_at: dt.datetime | None = None


@dataclass(frozen=True, slots=True)
class EventRecord:
    """One row of the outbox. `seq` is given by the database; `subject` is the id of what it is about."""

    id: str
    kind: str
    subject: str
    created_at: dt.datetime
    organisation: OrganisationId | None = None
    payload: Mapping[str, Any] = field(default_factory=dict)
    published_at: dt.datetime | None = None
    seq: int = 0

    @property
    def app(self) -> AppId | None:
        """Which app it is about, if it is about one."""
        app = self.payload.get("app", self.subject if self.kind.startswith("app.") else None)
        return None if app is None else AppId(str(app))


@dataclass(frozen=True, slots=True)
class DeadLetterRecord:
    id: str
    consumer: str
    kind: str
    subject: str
    problem: str
    created_at: dt.datetime
    payload: Mapping[str, Any] = field(default_factory=dict)
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class IdempotencyRecord:
    organisation: OrganisationId
    user: UserId
    key: str
    method: str
    path: str
    request_hash: str
    status: int
    body: bytes
    created_at: dt.datetime


@dataclass(frozen=True, slots=True)
class ImageMappingRecord:
    pattern: str
    image: str
    created_at: dt.datetime
