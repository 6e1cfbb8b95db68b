"""Releases: what was deployed and can be gone back to."""

from __future__ import annotations

from collections.abc import AsyncIterator

from shellwego.client.apps import app_path
from shellwego.client.paging import every
from shellwego.client.transport import Transport
from shellwego.protocol.public import Release


class Releases:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, app: str) -> AsyncIterator[Release]:
        """Newest first."""
        return every(self._transport, f"{app_path(app)}/releases", Release)
