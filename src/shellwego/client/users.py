"""Users: the people of an organisation."""

from __future__ import annotations

from collections.abc import AsyncIterator

from shellwego.client.paging import every
from shellwego.client.transport import Transport
from shellwego.protocol.public import User, UserCreate


class Users:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> AsyncIterator[User]:
        return every(self._transport, "/v1/users", User)

    async def create(self, body: UserCreate, *, idempotency_key: str | None = None) -> User:
        return await self._transport.send("POST", "/v1/users", User, body, idempotency_key=idempotency_key)
