"""The bus of a one-node cloud: queues inside the server's process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from shellwego.core.errors import Unavailable
from shellwego.drivers.bus.port import BusMessage

_LIMIT = 1000
"""Messages that wait for one subscriber; more is a subscriber that stands still."""


class MemorySubscription:
    def __init__(self, kinds: tuple[str, ...]) -> None:
        self._kinds = kinds
        self._queue: asyncio.Queue[BusMessage] = asyncio.Queue(_LIMIT)
        self._lagged = False

    def offer(self, message: BusMessage) -> None:
        if self._kinds and not message.kind.startswith(self._kinds):
            return
        try:
            self._queue.put_nowait(message)
        except asyncio.QueueFull:
            self._lagged = True

    async def next(self, *, timeout_seconds: float) -> BusMessage | None:
        try:
            async with asyncio.timeout(timeout_seconds):
                return await self._queue.get()
        except TimeoutError:
            return None

    @property
    def lagged(self) -> bool:
        lagged, self._lagged = self._lagged, False
        return lagged


class MemoryBus:
    """A publisher never waits for a subscriber."""

    def __init__(self) -> None:
        self._subscriptions: set[MemorySubscription] = set()
        self._closed = False

    async def publish(self, message: BusMessage) -> None:
        await self.ping()
        for subscription in tuple(self._subscriptions):
            subscription.offer(message)

    @contextlib.asynccontextmanager
    async def subscribe(self, *kinds: str) -> AsyncIterator[MemorySubscription]:
        subscription = MemorySubscription(kinds)
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)

    async def ping(self) -> None:
        if self._closed:
            raise Unavailable("The bus", "it was closed.")

    async def close(self) -> None:
        self._closed = True
