"""Signing in and out, and who one is."""

from __future__ import annotations

from shellwego.client.transport import Transport
from shellwego.protocol.public import Login, Me, Refresh, Session


class Auth:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def login(self, email: str, password: str) -> Session:
        return await self._transport.send("POST", "/v1/auth/login", Session, Login(email=email, password=password))

    async def logout(self, refresh_token: str) -> None:
        await self._transport.act("POST", "/v1/auth/logout", Refresh(refresh_token=refresh_token))

    async def me(self) -> Me:
        return await self._transport.get("/v1/auth/me", Me)
