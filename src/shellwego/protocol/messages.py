"""What do server, agents and edge say to each other?

Every message that crosses a process boundary stands here, as MessagePack with a tag, so that an unknown field is
ignored and an unknown tag is refused by name. Rules of change: fields are only added, with a default; a changed
meaning is a new message and a higher PROTOCOL_VERSION; both sides speak every version down to OLDEST_SUPPORTED.

Connections are opened by agents and edges. Each carries one conversation; logs and exec get a connection of their
own (OpenStream names it, StreamHello claims it), so that a slow reader holds up nobody else.
"""

from __future__ import annotations

from typing import Literal

import msgspec

PROTOCOL_VERSION = 2
"""2: an edge is told what changed of its routes (RoutesChanged), and says when it missed something."""
OLDEST_SUPPORTED = 1


class Message(msgspec.Struct, frozen=True, kw_only=True, tag=True, omit_defaults=True):
    """Base of all messages; the tag is the class name."""


# --- agent and server ---------------------------------------------------------------------------------------------


class NodeCapacity(msgspec.Struct, frozen=True, kw_only=True):
    memory_mib: int
    cpu_millis: int
    disk_free_mib: int = 0
    disk_total_mib: int = 0


class AgentHello(Message, frozen=True, kw_only=True):
    """An agent's first message. `generation` is that of the last assignment it persisted, 0 for none."""

    protocol: int = PROTOCOL_VERSION
    node: str
    name: str
    version: str
    capacity: NodeCapacity
    runtimes: list[str]
    generation: int = 0
    labels: dict[str, str] = {}


class Welcome(Message, frozen=True, kw_only=True):
    """The server's answer to a hello."""

    protocol: int = PROTOCOL_VERSION
    cloud: str
    heartbeat_seconds: float


class Refused(Message, frozen=True, kw_only=True):
    """The server's answer to a hello it can't work with; the connection ends after it."""

    code: str
    problem: str


class Heartbeat(Message, frozen=True, kw_only=True):
    capacity: NodeCapacity
    warnings: list[str] = []
    """What an operator should know of this node now: a disk that fills up, an engine that is missing."""
    unfit: str = ""
    """Why nothing can start on this node now; "" when something can. What runs there goes on."""


class HealthSpec(msgspec.Struct, frozen=True, kw_only=True):
    kind: Literal["http", "tcp", "command", "none"] = "tcp"
    path: str = "/"
    command: list[str] = []
    interval_seconds: float = 5.0
    timeout_seconds: float = 3.0
    start_period_seconds: float = 60.0
    retries: int = 3


class InstanceSpec(msgspec.Struct, frozen=True, kw_only=True):
    """All that an agent needs to run one instance. `env` holds secrets: never log a spec."""

    id: str
    organisation: str
    app: str
    app_name: str
    release: str
    release_label: str
    process: str
    image: str
    command: list[str]
    env: dict[str, str]
    port: int | None
    health: HealthSpec
    memory_mib: int
    cpu_millis: int
    pids: int
    disk_mib: int
    runtime: str
    grace_seconds: float
    restart_token: int = 0


class Removal(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    grace_seconds: float


class Assignment(Message, frozen=True, kw_only=True):
    """
    What this node should run, whole. Generations of one node only grow.

    An instance is removed only when `absent` names it; one that is in neither list goes on running and is reported
    as unclaimed. So a server with an older or an empty database can't make an agent delete anything.
    """

    generation: int
    run: list[InstanceSpec]
    absent: list[Removal]
    extra_ca: str = ""
    """PEM certificates of the operator that instances shall trust besides their image's own."""
    keep_images: list[str] | None = None
    """References of images that must survive a clean-up besides those in `run`. None: nothing is cleaned up."""


class InstanceReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the agent sees of one instance. Times are seconds since the epoch."""

    id: str
    state: str
    reason: str = ""
    address: str | None = None
    port: int | None = None
    restarts: int = 0
    exit_reason: str | None = None
    exit_code: int | None = None
    started_at: float | None = None
    last_lines: list[str] = []
    """The end of its log, sent with a failure, so that a failed deployment can say why."""


class Report(Message, frozen=True, kw_only=True):
    """What runs on a node, whole. `generation` is that of the assignment it was made under."""

    generation: int
    instances: list[InstanceReport]
    unclaimed: list[str] = []


class LogsRequest(msgspec.Struct, frozen=True, kw_only=True, tag="logs"):
    """
    `since` is seconds since the epoch; `tail` counts lines from the end, None for all. With `after`, and no `tail`, an
    instance is read on from the `place` of a line instead. `secrets` are variables of the release of each instance
    whose values the lines may not show; the node can't know them, since logs outlive instances.
    """

    instances: list[str]
    follow: bool = False
    tail: int | None = None
    since: float | None = None
    after: dict[str, str] = {}
    secrets: dict[str, dict[str, str]] = {}


class ExecRequest(msgspec.Struct, frozen=True, kw_only=True, tag="exec"):
    instance: str
    command: list[str]
    tty: bool = False
    columns: int = 80
    rows: int = 24
    env: dict[str, str] = {}


class OpenStream(Message, frozen=True, kw_only=True):
    """Server to agent: open another connection for this, and say StreamHello there with the same id."""

    stream: str
    request: LogsRequest | ExecRequest


class StreamHello(Message, frozen=True, kw_only=True):
    protocol: int = PROTOCOL_VERSION
    stream: str


class LogLine(Message, frozen=True, kw_only=True):
    """
    One line of an instance. `at` is seconds since the epoch; `partial` lines go on in the next message. `place` is
    where it ends, in the agent's words: a time can't say that, since many lines share one and clocks are set back.
    """

    instance: str
    at: float
    stream: Literal["stdout", "stderr"]
    text: str
    partial: bool = False
    place: str = ""


class ExecData(Message, frozen=True, kw_only=True):
    """Bytes of a terminal or pipe: stdin towards the agent, stdout and stderr from it. Empty `data` ends stdin."""

    channel: Literal["stdin", "stdout", "stderr"]
    data: bytes


class ExecResize(Message, frozen=True, kw_only=True):
    columns: int
    rows: int


class ExecSignal(Message, frozen=True, kw_only=True):
    number: int


class StreamEnd(Message, frozen=True, kw_only=True):
    """Last message of a stream. `exit_code` is the command's own; `problem` says why there is none."""

    exit_code: int | None = None
    code: str = ""
    problem: str = ""


# --- edge and server ----------------------------------------------------------------------------------------------


class EdgeHello(Message, frozen=True, kw_only=True):
    protocol: int = PROTOCOL_VERSION
    edge: str
    version: str


class RouteServer(msgspec.Struct, frozen=True, kw_only=True):
    instance: str
    address: str
    port: int


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """
    Where requests for these host names go. Without servers the edge answers for the app: `status` is one of
    `starting`, `crashed`, `stopped`, `empty`.
    """

    app: str
    app_name: str
    organisation: str
    hosts: list[str]
    servers: list[RouteServer]
    draining: list[RouteServer] = []
    status: str = "running"
    grace_seconds: float = 10.0


class Routes(Message, frozen=True, kw_only=True):
    """
    All that the proxy must serve, each route whole. Generations only grow within one `epoch` (a server's start).

    What neither `routes` nor `gone` (ids of apps) names goes on being served as before: a server whose database was
    restored, or lost, knows nothing of some apps, and that must not take them off the net.
    """

    generation: int
    domain: str
    routes: list[Route]
    gone: list[str] = []


class RoutesChanged(Message, frozen=True, kw_only=True):
    """
    What makes generation `generation` of generation `since`: routes that are new or different, each whole, and apps of
    which nothing more is served. For an edge that speaks protocol 2 and was sent all before; one that isn't at `since`
    has missed something, and says RoutesMissed.
    """

    since: int
    generation: int
    routes: list[Route] = []
    gone: list[str] = []


class RoutesMissed(Message, frozen=True, kw_only=True):
    """An edge's answer to changes of a generation that it never had: send all. `generation` is the one it has."""

    generation: int


class EdgeReport(Message, frozen=True, kw_only=True):
    """
    `generation` is in force now. `drained` names draining instances whose last request has ended. `serving` is false
    while the proxy can't be brought to what it should serve; `problems` say why, or name routes that were refused.
    """

    generation: int
    drained: list[str] = []
    problems: list[str] = []
    serving: bool = True
