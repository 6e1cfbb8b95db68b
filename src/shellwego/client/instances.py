"""Instances: the running copies of an app."""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import quote

from shellwego.client.paging import every
from shellwego.client.transport import Transport
from shellwego.protocol.public import Instance


class Instances:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, app: str | None = None) -> AsyncIterator[Instance]:
        """Of one app, or of all."""
        return every(self._transport, "/v1/instances", Instance, {"app": app})

    async def get(self, instance: str) -> Instance:
        return await self._transport.get(f"/v1/instances/{quote(instance, safe='')}", Instance)
