"""How do events flow to one client, for hours?

Server-sent events (WHATWG HTML, section 9.2), with ids to go on from and comments as heartbeats, so that neither
proxies nor clients take a quiet stream for a dead one. A stream ends when the server stops, when its caller's
credential ends, and when nobody reads any more.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from fastapi.responses import StreamingResponse

from shellwego.control.api.calls import Credential, caller_of
from shellwego.control.api.parts import ApiParts
from shellwego.core.errors import Unauthenticated, Unavailable

MEDIA_TYPE = "text/event-stream"
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


@dataclass(frozen=True, slots=True)
class Event:
    id: str
    kind: str
    data: str

    def encode(self) -> bytes:
        # JSON on one line: a line break inside would end the field.
        return f"id: {self.id}\nevent: {self.kind}\ndata: {self.data}\n\n".encode()


def stream(frames: AsyncIterator[bytes], parts: ApiParts, credential: Credential) -> StreamingResponse:
    return StreamingResponse(_with_heartbeats(frames, parts, credential), media_type=MEDIA_TYPE, headers=_HEADERS)


async def _with_heartbeats(
    frames: AsyncIterator[bytes], parts: ApiParts, credential: Credential
) -> AsyncIterator[bytes]:
    yield b": hello\n\n"  # Headers reach the client with the first byte of the body.
    stopping: asyncio.Future[Any] = asyncio.ensure_future(parts.stopping.wait())
    pending: asyncio.Future[Any] | None = None
    try:
        while not stopping.done():
            if pending is None:
                pending = asyncio.ensure_future(anext(frames, None))
            await asyncio.wait(
                {pending, stopping}, timeout=parts.settings.heartbeat_seconds, return_when=asyncio.FIRST_COMPLETED
            )
            if pending.done():
                frame, pending = pending.result(), None
                if frame is None:
                    return
                yield frame
                continue
            if not await still_welcome(parts, credential):
                return
            yield b": still here\n\n"
    finally:
        for task in (stopping, pending):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task
        aclose = getattr(frames, "aclose", None)
        if aclose is not None:
            await aclose()


async def still_welcome(parts: ApiParts, credential: Credential) -> bool:
    """Whether the credential still stands. While the database is away nobody is sent away."""
    try:
        async with parts.store.reading() as work:
            await caller_of(work, credential)
    except Unauthenticated:
        return False
    except Unavailable:
        return True
    return True
