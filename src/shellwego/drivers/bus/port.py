"""How do the parts of a cloud hear of each other's events?

A bus wakes and informs; it is never the truth. Delivery is at least once while a subscriber listens, in the order of
publishing; a subscriber that is too slow loses messages and is told so (`lagged`), upon which it reads the database
again. Nothing may depend on a message having arrived.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class BusMessage:
    """`kind` as `deployment.failed`, `subject` the id of what it is about, `seq` its number in the outbox."""

    kind: str
    subject: str
    payload: Mapping[str, Any] = field(default_factory=dict)
    organisation: str | None = None
    seq: int = 0


class Subscription(Protocol):
    async def next(self, *, timeout_seconds: float) -> BusMessage | None:
        """The next message, or None when none came in time."""
        ...

    @property
    def lagged(self) -> bool:
        """Messages were lost since the last time this was read; reading it clears it."""
        ...


class Bus(Protocol):
    async def publish(self, message: BusMessage) -> None:
        """Raises Unavailable when the broker doesn't take it."""
        ...

    def subscribe(self, *kinds: str) -> AbstractAsyncContextManager[Subscription]:
        """
        Messages whose kind begins with one of `kinds` (all, without any), from when the block is entered to its end.
        """
        ...

    async def ping(self) -> None:
        """Raises Unavailable when the bus can't be used now."""
        ...
