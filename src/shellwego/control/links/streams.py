"""How does a log or exec stream reach us?

Agents connect to us, never we to them. So a stream is asked for on an agent's own connection (OpenStream) and
arrives as a connection of its own, whose first message (StreamHello) names it. This module pairs the two.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from shellwego.core.errors import NodeUnavailable
from shellwego.protocol.channel import Channel
from shellwego.protocol.messages import ExecRequest, LogsRequest, OpenStream, StreamHello

OPEN_SECONDS = 10.0


class Streams:
    """The streams that were asked for and haven't arrived yet. `new_stream_id` gives unguessable names."""

    def __init__(self, *, new_stream_id: Callable[[], str]) -> None:
        self._new_id = new_stream_id
        self._expected: dict[str, asyncio.Future[Channel]] = {}

    async def open(self, node: str, link: Channel, request: LogsRequest | ExecRequest) -> Channel:
        """Ask over `link` and return the stream's own channel. Raises NodeUnavailable."""
        stream = self._new_id()
        arrived: asyncio.Future[Channel] = asyncio.get_running_loop().create_future()
        self._expected[stream] = arrived
        try:
            await link.send(OpenStream(stream=stream, request=request))
            async with asyncio.timeout(OPEN_SECONDS):
                return await asyncio.shield(arrived)
        except TimeoutError as error:
            raise NodeUnavailable(node) from error
        finally:
            # One that arrives after we gave up finds nobody, and `claim` refuses it.
            self._expected.pop(stream, None)
            if not arrived.done():
                arrived.cancel()

    def claim(self, hello: StreamHello, channel: Channel) -> bool:
        """Hand an arrived stream to whoever asked for it. False if nobody did, or does any more."""
        arrived = self._expected.pop(hello.stream, None)
        if arrived is None or arrived.done():
            return False
        arrived.set_result(channel)
        return True
