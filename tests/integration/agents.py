"""Agents for the API's tests: what a stream asks for is written down, what it answers is given."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from shellwego.core.errors import NodeUnavailable
from shellwego.core.ids import NodeId
from shellwego.protocol.channel import ChannelClosed
from shellwego.protocol.messages import ExecRequest, LogsRequest, Message


class FakeStream:
    """`say` puts a message on its way to the server; `heard` is what the server sent."""

    def __init__(self, request: LogsRequest | ExecRequest) -> None:
        self.request = request
        self.heard: list[Message] = []
        self.closed = asyncio.Event()
        self.arrived = asyncio.Event()
        self._queue: asyncio.Queue[Message | None] = asyncio.Queue()

    def say(self, *messages: Message | None) -> None:
        for message in messages:
            self._queue.put_nowait(message)

    async def send(self, message: Message) -> None:
        if self.closed.is_set():
            raise ChannelClosed("closed")
        self.heard.append(message)
        self.arrived.set()

    async def receive(self) -> Message:
        message = await self._queue.get()
        if message is None:
            raise ChannelClosed("cut by the test")
        return message

    async def close(self) -> None:
        self.closed.set()


class FakeAgents:
    def __init__(self) -> None:
        self.connected: set[NodeId] = set()
        self.streams: list[FakeStream] = []
        self.opened = asyncio.Event()
        self.on_open: Callable[[FakeStream], None] = lambda _: None

    async def open_stream(self, node: NodeId, request: LogsRequest | ExecRequest) -> FakeStream:
        if node not in self.connected:
            raise NodeUnavailable(node)
        stream = FakeStream(request)
        self.streams.append(stream)
        self.on_open(stream)
        self.opened.set()
        return stream
