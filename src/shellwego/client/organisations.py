"""Organisations: the tenants of the cloud."""

from __future__ import annotations

from collections.abc import AsyncIterator

from shellwego.client.paging import every
from shellwego.client.transport import Transport
from shellwego.protocol.public import Organisation, OrganisationCreate


class Organisations:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> AsyncIterator[Organisation]:
        return every(self._transport, "/v1/organisations", Organisation)

    async def create(self, name: str, *, idempotency_key: str | None = None) -> Organisation:
        body = OrganisationCreate(name=name)
        return await self._transport.send(
            "POST", "/v1/organisations", Organisation, body, idempotency_key=idempotency_key
        )
