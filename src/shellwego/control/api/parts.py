"""What does the API stand on?

One frozen value, put on the application's state by `create_api`; handlers reach everything through it, and tests put
fakes in.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from starlette.requests import HTTPConnection

from shellwego.control.services.attempts import Attempts
from shellwego.control.services.passwords import Passwords
from shellwego.control.services.sessions import Issuer
from shellwego.control.services.signing import SigningKey
from shellwego.control.store import Store
from shellwego.core.ids import NodeId, RandomBytes
from shellwego.drivers.bus.port import Bus
from shellwego.drivers.kms.port import Kms
from shellwego.kit.clock import Clock, utc_now
from shellwego.protocol.messages import ExecRequest, LogsRequest, Message


class Stream(Protocol):
    """One conversation with an agent (`protocol.channel.Channel`). `receive` raises ChannelClosed at its end."""

    async def send(self, message: Message) -> None: ...
    async def receive(self) -> Message: ...
    async def close(self) -> None: ...


class AgentGateway(Protocol):
    """How the API reaches instances (`control.links.agents.AgentLinks`)."""

    @property
    def connected(self) -> Collection[NodeId]: ...

    async def open_stream(self, node: NodeId, request: LogsRequest | ExecRequest) -> Stream:
        """Logs: LogLine messages, then StreamEnd. Exec: see protocol.messages. Raises NodeUnavailable."""
        ...


HealthCheck = Callable[[], Awaitable[str]]
"""What a part says of itself when it is well; raises ShellWeGoError when it isn't."""


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """`directory` is the server's: `sources/` and `builds/` lie in it. Ports are what people type."""

    domain: str
    directory: Path
    version: str
    http_port: int = 80
    https_port: int | None = None
    maximum_body_bytes: int = 10 * 1000 * 1000
    maximum_source_bytes: int = 512 * 1000 * 1000
    idle_upload_seconds: float = 60.0
    heartbeat_seconds: float = 15.0

    @property
    def sources(self) -> Path:
        return self.directory / "sources"

    @property
    def builds(self) -> Path:
        return self.directory / "builds"

    def app_url(self, name: str) -> str:
        return f"http://{name}.{self.domain}{'' if self.http_port == 80 else f':{self.http_port}'}/"


@dataclass(frozen=True, slots=True)
class ApiParts:
    store: Store
    kms: Kms
    bus: Bus
    agents: AgentGateway
    signing: SigningKey
    settings: ApiSettings
    passwords: Passwords = field(default_factory=Passwords)
    attempts: Attempts = field(default_factory=Attempts)
    clock: Clock = utc_now
    monotonic: Callable[[], float] = time.monotonic
    random_bytes: RandomBytes = secrets.token_bytes
    checks: Mapping[str, HealthCheck] = field(default_factory=dict)
    """More that `/health` shall ask, by name."""
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the server stops: streams end, and their readers come back to the next one."""

    @property
    def issuer(self) -> Issuer:
        return Issuer(self.signing, self.passwords, self.random_bytes)


def parts_of(connection: HTTPConnection) -> ApiParts:
    parts: ApiParts = connection.app.state.parts
    return parts
