"""How are server-sent events and JSON lines cut from a stream of bytes?

By our own few lines, because `str.splitlines`, which httpx's own line reader uses, also cuts at U+2028 and friends,
which JSON may hold as they are.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

MAXIMUM_LINE_BYTES = 32 << 20


class LineTooLong(Exception):
    """A line without end: not one of ours."""


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event of an SSE stream (WHATWG HTML, section 9.2). `id` is the newest id seen, for `Last-Event-ID`."""

    data: str
    kind: str = "message"
    id: str = ""


async def lines_of(chunks: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """Lines ended by LF or CRLF; a last one without its end counts too."""
    rest = b""
    async for chunk in chunks:
        rest += chunk
        if b"\n" in chunk:
            *whole, rest = rest.split(b"\n")
            for line in whole:
                yield line.removesuffix(b"\r").decode(errors="replace")
        if len(rest) > MAXIMUM_LINE_BYTES:
            raise LineTooLong
    if rest:
        yield rest.decode(errors="replace")


async def events_of(chunks: AsyncIterator[bytes]) -> AsyncIterator[ServerEvent]:
    """The events of an SSE stream; comments (which keep connections alive) are dropped, as is an unfinished event."""
    data: list[str] = []
    kind, last_id = "message", ""
    async for line in lines_of(chunks):
        if not line:
            if data:
                yield ServerEvent("\n".join(data), kind, last_id)
            data, kind = [], "message"
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "data":
                data.append(value)
            case "event":
                kind = value
            case "id":
                last_id = value
            case _:
                pass  # a comment, `retry`, or a field of the future
