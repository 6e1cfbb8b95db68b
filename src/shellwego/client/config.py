"""An app's configuration: its environment variables."""

from __future__ import annotations

from collections.abc import Mapping

from shellwego.client.apps import app_path
from shellwego.client.transport import Transport
from shellwego.protocol.public import Config, ConfigChange


class Configs:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def get(self, app: str) -> Config:
        return await self._transport.get(f"{app_path(app)}/config", Config)

    async def change(self, app: str, values: Mapping[str, str | None], *, idempotency_key: str) -> Config:
        """Set values, unset those that are None, in one new release."""
        body = ConfigChange(values=dict(values))
        path = f"{app_path(app)}/config"
        return await self._transport.send("PATCH", path, Config, body, idempotency_key=idempotency_key)
