"""Image mappings: which image of this cloud stands in for a public name."""

from __future__ import annotations

from collections.abc import AsyncIterator

from shellwego.client.paging import every
from shellwego.client.transport import Transport
from shellwego.protocol.public import ImageMapping

PATH = "/v1/images/mappings"


class Images:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def mappings(self) -> AsyncIterator[ImageMapping]:
        return every(self._transport, PATH, ImageMapping)

    async def map(self, pattern: str, image: str) -> ImageMapping:
        return await self._transport.send("PUT", PATH, ImageMapping, ImageMapping(pattern=pattern, image=image))

    async def unmap(self, pattern: str) -> None:
        await self._transport.act("DELETE", PATH, query={"pattern": pattern})
