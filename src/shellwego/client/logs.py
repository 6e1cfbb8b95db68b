"""Logs of an app's instances, as they were and as they come."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from pydantic import ValidationError

from shellwego.client.apps import app_path
from shellwego.client.errors import CannotReach, NotACloud, Refused
from shellwego.client.streams import events_of, lines_of
from shellwego.client.transport import Query, Transport
from shellwego.protocol.public import LogEntry


@dataclass(frozen=True, slots=True)
class LogQuery:
    """`since` is an RFC 3339 time. None asks for the cloud's own default."""

    tail: int | None = None
    since: str | None = None
    process: str | None = None
    instance: str | None = None

    def query(self, **more: str | bool | None) -> Query:
        return {
            "tail": self.tail,
            "since": self.since,
            "process": self.process,
            "instance": self.instance,
            **more,
        }


class Logs:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def read(self, app: str, what: LogQuery) -> AsyncIterator[LogEntry]:
        """What is there now, oldest first."""
        async with self._transport.stream(
            f"{app_path(app)}/logs",
            accept="application/x-ndjson, application/jsonl, application/json",
            query=what.query(),
        ) as response:
            async for line in lines_of(response.aiter_bytes()):
                if line:
                    yield _entry(line, self._transport.url)

    async def follow(self, app: str, what: LogQuery) -> AsyncIterator[LogEntry]:
        """
        What is there and what comes, until the caller stops.

        A broken line is taken up where it broke: after the last event's id, or, from a cloud that gives none, from
        the time of the last entry, leaving out what was seen of that instant.
        """
        last_id, newest, seen_then = "", None, set[tuple[str, str, str]]()
        trouble = self._transport.trouble()
        query = what.query(follow=True)
        while True:
            try:
                async with self._transport.stream(
                    f"{app_path(app)}/logs", accept="text/event-stream", query=query, last_event_id=last_id
                ) as response:
                    async for event in events_of(response.aiter_bytes()):
                        trouble.is_over()
                        last_id = event.id or last_id
                        entry = _entry(event.data, self._transport.url)
                        mark = (entry.instance, entry.stream, entry.text)
                        if entry.at == newest and mark in seen_then and not last_id:
                            continue
                        if newest is None or entry.at > newest:
                            newest, seen_then = entry.at, set()
                        if entry.at == newest:
                            seen_then.add(mark)
                        yield entry
                broken: CannotReach | Refused = CannotReach(self._transport.url, "the stream ended", sent=True)
            except (CannotReach, Refused) as error:
                if not error.retryable:
                    raise
                broken = error
            if not await trouble.wait(broken):
                raise broken
            if newest is not None and not last_id:
                query = what.query(follow=True, since=newest.isoformat(), tail=None)


def _entry(data: str, url: str) -> LogEntry:
    try:
        return LogEntry.model_validate_json(data)
    except ValidationError as error:
        raise NotACloud(url, 200, "a log line that can't be understood") from error
