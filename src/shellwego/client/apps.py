"""Apps and how many instances they shall have."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from urllib.parse import quote

from shellwego.client.errors import Refused
from shellwego.client.paging import every
from shellwego.client.transport import Transport
from shellwego.protocol.public import App, AppCreate, AppUpdate


def app_path(app: str) -> str:
    """Of an app's name or id, which a person typed."""
    return f"/v1/apps/{quote(app, safe='')}"


class Apps:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> AsyncIterator[App]:
        return every(self._transport, "/v1/apps", App)

    async def get(self, app: str) -> App:
        return await self._transport.get(app_path(app), App)

    async def find(self, app: str) -> App | None:
        try:
            return await self.get(app)
        except Refused as error:
            if error.code == "not_found":
                return None
            raise

    async def create(self, name: str, *, idempotency_key: str | None = None) -> App:
        body = AppCreate(name=name)
        return await self._transport.send("POST", "/v1/apps", App, body, idempotency_key=idempotency_key)

    async def scale(self, app: str, replicas: Mapping[str, int]) -> App:
        """Change the process types named, and only those."""
        body = AppUpdate(replicas=dict(replicas))
        return await self._transport.send("PATCH", app_path(app), App, body, repeatable=True)

    async def start(self, app: str) -> App:
        return await self._transport.send("POST", f"{app_path(app)}/start", App, repeatable=True)

    async def stop(self, app: str) -> App:
        return await self._transport.send("POST", f"{app_path(app)}/stop", App, repeatable=True)

    async def restart(self, app: str, *, idempotency_key: str | None = None) -> App:
        return await self._transport.send("POST", f"{app_path(app)}/restart", App, idempotency_key=idempotency_key)

    async def delete(self, app: str) -> None:
        await self._transport.act("DELETE", app_path(app))
