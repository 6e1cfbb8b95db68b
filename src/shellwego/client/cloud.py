"""What can be done with a cloud? Everything its API offers, one attribute per noun.

async with connect("http://127.0.0.1:7080", TokenCredential(token)) as cloud:
    async for app in cloud.apps.list():
        ...
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from shellwego.client.apps import Apps
from shellwego.client.auth import Auth
from shellwego.client.config import Configs
from shellwego.client.credentials import Credential
from shellwego.client.deployments import Deployments
from shellwego.client.images import Images
from shellwego.client.instances import Instances
from shellwego.client.logs import Logs
from shellwego.client.nodes import Nodes
from shellwego.client.organisations import Organisations
from shellwego.client.releases import Releases
from shellwego.client.sources import Sources
from shellwego.client.status import Status
from shellwego.client.tokens import Tokens
from shellwego.client.transport import PATIENCE_SECONDS, Transport
from shellwego.client.users import Users

if TYPE_CHECKING:
    from shellwego.client.exec import Exec


class Cloud:
    """One cloud, seen with one credential."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.url = transport.url
        self.apps = Apps(transport)
        self.auth = Auth(transport)
        self.configs = Configs(transport)
        self.deployments = Deployments(transport)
        self.images = Images(transport)
        self.instances = Instances(transport)
        self.logs = Logs(transport)
        self.nodes = Nodes(transport)
        self.organisations = Organisations(transport)
        self.releases = Releases(transport)
        self.sources = Sources(transport)
        self.status = Status(transport)
        self.tokens = Tokens(transport)
        self.users = Users(transport)

    @functools.cached_property
    def exec(self) -> Exec:
        # A library for WebSockets takes a tenth of a second to import, which no other command shall wait for.
        from shellwego.client.exec import Exec

        return Exec(self._transport)


@contextlib.asynccontextmanager
async def connect(
    url: str,
    credential: Credential | None = None,
    *,
    ca: Path | None = None,
    patience_seconds: float = PATIENCE_SECONDS,
    on_wait: Callable[[str], None] | None = None,
    http: httpx.AsyncBaseTransport | None = None,
) -> AsyncIterator[Cloud]:
    """A cloud at that URL; nothing is sent until it is asked something. `http` is for tests, in one process."""
    transport = Transport(url, credential, ca=ca, patience_seconds=patience_seconds, on_wait=on_wait, http=http)
    try:
        yield Cloud(transport)
    finally:
        await transport.close()
