"""The cloud itself: the whole of it in one answer."""

from __future__ import annotations

from shellwego.client.transport import Transport
from shellwego.protocol.public import CloudStatus


class Status:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def get(self) -> CloudStatus:
        return await self._transport.get("/v1/status", CloudStatus)
