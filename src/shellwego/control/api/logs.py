"""Logs over HTTP: as lines of JSON, as server-sent events, and over a WebSocket."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import re
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.responses import StreamingResponse

from shellwego.control.api import problems, sse
from shellwego.control.api.calls import Credential, RequestCredential, caller_of, credential_of
from shellwego.control.api.log_streams import DEFAULT_TAIL, MAXIMUM_TAIL, LogsQuery, Told, follow, history
from shellwego.control.api.parts import ApiParts, parts_of
from shellwego.control.api.sse import still_welcome
from shellwego.core.errors import InvalidField, ShellWeGoError
from shellwego.core.ids import InstanceId

router = APIRouter(prefix="/v1/apps/{app}/logs", tags=["logs"])

JSON_LINES = "application/x-ndjson"
_PLACES = 100
"""More than an app's instances at most times; beyond, one that was silent for longest is told again."""
_PLACE = re.compile(r"(ins_[a-z2-7]{20})\.([0-9]{0,40}\.[0-9]{1,19})")


@dataclass(frozen=True, slots=True)
class Wanted:
    follow: Annotated[bool, Query(description="Go on with what comes. Server-sent events imply it.")] = False
    tail: Annotated[int | None, Query(ge=0, le=MAXIMUM_TAIL, description="Lines from the end; 100 at first.")] = None
    since: Annotated[dt.datetime | None, Query(description="RFC 3339; lines from then on.")] = None
    process: Annotated[str | None, Query(max_length=40)] = None
    instance: Annotated[str | None, Query(max_length=64)] = None


@dataclass(frozen=True, slots=True)
class _Resume:
    """
    Where a reader of events goes on: behind its last line of each instance, and with what the others said since the
    stream began. `1767225600.25~ins_x.PLACE~ins_y.PLACE` as an event's id.
    """

    since: float
    after: dict[InstanceId, str]

    @classmethod
    def parse(cls, text: str | None) -> _Resume | None:
        """Raises InvalidField."""
        if not text:
            return None
        since, *places = text.split("~")
        found = [_PLACE.fullmatch(place) for place in places]
        if not re.fullmatch(r"[0-9]{1,12}\.[0-9]{1,9}", since) or not all(found):
            raise InvalidField("Last-Event-ID", "is not the id of an event of this stream.")
        return cls(float(since), {InstanceId(match[1]): match[2] for match in found if match})

    def __str__(self) -> str:
        return "~".join((f"{self.since:.6f}", *(f"{id}.{place}" for id, place in self.after.items())))


@router.get(
    "",
    operation_id="readLogs",
    response_class=StreamingResponse,
    responses={
        200: {
            "content": {kind: {"schema": {"type": "string"}} for kind in (JSON_LINES, sse.MEDIA_TYPE)},
            "description": "LogEntry objects, one a line; with Accept: text/event-stream, each the data of one event.",
        }
    },
)
async def read_logs(
    request: Request,
    app: str,
    wanted: Annotated[Wanted, Depends()],
    credential: RequestCredential,
    last_event_id: Annotated[str | None, Header(max_length=8192)] = None,
) -> Response:
    """What an app's instances printed and, following, what they print."""
    parts = parts_of(request)
    resume = _Resume.parse(last_event_id)
    query = await _query(parts, credential, app, wanted, resume)
    if sse.MEDIA_TYPE in request.headers.get("accept", ""):
        return sse.stream(_events(follow(parts, query), resume), parts, credential)
    lines = follow(parts, query) if wanted.follow else history(parts, query)
    # The first line is waited for here, so that a node that is away is a 503 and not half an answer.
    first = None if wanted.follow else await anext(lines, None)
    return StreamingResponse(_json_lines(first, lines, parts, credential), media_type=JSON_LINES)


@router.websocket("/stream")
async def stream_logs(socket: WebSocket, app: str, wanted: Annotated[Wanted, Depends()]) -> None:
    """The same, followed: one text message of JSON per line."""
    parts = parts_of(socket)
    try:
        credential = credential_of(socket)
        query = await _query(parts, credential, app, wanted)
    except ShellWeGoError as error:
        await socket.send_denial_response(problems.refusal(error, problems.request_id_of(socket)))
        return
    await socket.accept()
    sending = asyncio.ensure_future(_send(socket, follow(parts, query)))
    stopping = asyncio.ensure_future(parts.stopping.wait())
    leaving = asyncio.ensure_future(_left(socket))
    try:
        while not (sending.done() or stopping.done() or leaving.done()):
            await asyncio.wait(
                {sending, stopping, leaving},
                timeout=parts.settings.heartbeat_seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if not await still_welcome(parts, credential):
                break
    finally:
        for task in (sending, stopping, leaving):
            task.cancel()
        await asyncio.gather(sending, stopping, leaving, return_exceptions=True)
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):
            await socket.close(1001 if parts.stopping.is_set() else 1000)


async def _query(
    parts: ApiParts, credential: Credential, reference: str, wanted: Wanted, resume: _Resume | None = None
) -> LogsQuery:
    """Raises Unauthenticated, NotFound, InvalidField."""
    since = _utc(wanted.since).timestamp() if wanted.since is not None else None
    tail = wanted.tail
    if resume is not None:
        since, tail = resume.since, None
    elif tail is None and since is None:
        tail = DEFAULT_TAIL
    async with parts.store.reading() as work:
        caller, _ = await caller_of(work, credential)
        tenant = work.for_organisation(caller.organisation)
        app = await tenant.apps.named(reference)
        if wanted.instance is not None:
            await tenant.instances.get(wanted.instance)
    after = resume.after if resume is not None else {}
    return LogsQuery(caller.organisation, app.id, tail, since, wanted.process, wanted.instance, after)


async def _events(lines: AsyncGenerator[Told, None], resume: _Resume | None) -> AsyncGenerator[bytes, None]:
    async with contextlib.aclosing(lines):
        async for line in lines:
            resume = resume or _Resume(line.entry.at.timestamp(), {})
            id = InstanceId(line.entry.instance)
            # The last to speak stands last, and the longest silent are let go: a stream may live for many deployments.
            kept = [item for item in resume.after.items() if item[0] != id][1 - _PLACES :]
            resume = _Resume(resume.since, {**dict(kept), id: line.place})
            yield sse.Event(str(resume), "log", line.entry.model_dump_json()).encode()


async def _json_lines(
    first: Told | None,
    lines: AsyncGenerator[Told, None],
    parts: ApiParts,
    credential: Credential,
) -> AsyncIterator[bytes]:
    if first is not None:
        yield first.entry.model_dump_json().encode() + b"\n"
    stopping = asyncio.ensure_future(parts.stopping.wait())
    pending: asyncio.Future[Told | None] | None = None
    try:
        while not stopping.done():
            if pending is None:
                pending = asyncio.ensure_future(anext(lines, None))
            waited: set[asyncio.Future[Any]] = {pending, stopping}
            await asyncio.wait(waited, timeout=parts.settings.heartbeat_seconds, return_when=asyncio.FIRST_COMPLETED)
            if pending.done():
                line, pending = pending.result(), None
                if line is None:
                    return
                yield line.entry.model_dump_json().encode() + b"\n"
            elif not await still_welcome(parts, credential):
                return
    finally:
        for task in (stopping, pending):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task
        await lines.aclose()


async def _send(socket: WebSocket, lines: AsyncIterator[Told]) -> None:
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        async for line in lines:
            await socket.send_text(line.entry.model_dump_json())


async def _left(socket: WebSocket) -> None:
    """Ends when the reader has gone; what they send is nothing to us."""
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        while True:
            await socket.receive_bytes()


def _utc(time: dt.datetime) -> dt.datetime:
    return time.replace(tzinfo=dt.UTC) if time.tzinfo is None else time
