"""Deployments: asking for one, following it to its end through every break of the line, cancelling it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import quote

from pydantic import ValidationError

from shellwego.client.apps import app_path
from shellwego.client.errors import CannotReach, NotACloud, Refused
from shellwego.client.paging import every
from shellwego.client.streams import events_of
from shellwego.client.transport import Transport
from shellwego.protocol.public import Deployment, DeploymentCreate, DeploymentEvent


class Deployments:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, app: str) -> AsyncIterator[Deployment]:
        """Newest first."""
        return every(self._transport, f"{app_path(app)}/deployments", Deployment)

    async def get(self, app: str, deployment: str) -> Deployment:
        return await self._transport.get(_path(app, deployment), Deployment)

    async def create(self, app: str, body: DeploymentCreate, *, idempotency_key: str) -> Deployment:
        """Sent again with the same key, it is the same deployment: safe after a broken connection."""
        path = f"{app_path(app)}/deployments"
        return await self._transport.send("POST", path, Deployment, body, idempotency_key=idempotency_key)

    async def cancel(self, app: str, deployment: str) -> Deployment:
        return await self._transport.send("POST", f"{_path(app, deployment)}/cancel", Deployment, repeatable=True)

    async def follow(self, app: str, deployment: str) -> AsyncIterator[DeploymentEvent]:
        """
        Every event from the first to `finished`, each once.

        A broken line is taken up again after the event seen last; a cloud that restarts has the transport's
        patience to come back. Raises CannotReach when it doesn't.
        """
        last_id = ""
        trouble = self._transport.trouble()
        while True:
            try:
                async with self._transport.stream(
                    f"{_path(app, deployment)}/events", accept="text/event-stream", last_event_id=last_id
                ) as response:
                    async for event in events_of(response.aiter_bytes()):
                        trouble.is_over()
                        last_id = event.id or last_id
                        seen = _event(event.data, self._transport.url)
                        yield seen
                        if seen.kind == "finished":
                            return
                # The stream ended without its last word: the server was stopped in good order.
                broken: CannotReach | Refused = CannotReach(self._transport.url, "the stream ended early", sent=True)
            except (CannotReach, Refused) as error:
                if not error.retryable:
                    raise
                broken = error
            if not await trouble.wait(broken):
                raise broken


def _event(data: str, url: str) -> DeploymentEvent:
    try:
        return DeploymentEvent.model_validate_json(data)
    except ValidationError as error:
        raise NotACloud(url, 200, "an event that can't be understood; is this client older than the cloud?") from error


def _path(app: str, deployment: str) -> str:
    return f"{app_path(app)}/deployments/{quote(deployment, safe='')}"
