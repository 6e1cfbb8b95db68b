"""API tokens: credentials for scripts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import quote

from shellwego.client.paging import every
from shellwego.client.transport import Transport
from shellwego.protocol.public import Token, TokenCreate, TokenCreated


class Tokens:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> AsyncIterator[Token]:
        return every(self._transport, "/v1/tokens", Token)

    async def create(self, body: TokenCreate) -> TokenCreated:
        """Never repeated by itself: the secret is shown once, so a lost answer is a lost token."""
        return await self._transport.send("POST", "/v1/tokens", TokenCreated, body)

    async def revoke(self, token: str) -> None:
        await self._transport.act("DELETE", f"/v1/tokens/{quote(token, safe='')}")
