"""A server that only talks: it speaks the control socket's protocol and decides nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from shellwego.protocol.channel import Channel, ChannelClosed
from shellwego.protocol.messages import (
    AgentHello,
    Assignment,
    ExecRequest,
    Heartbeat,
    InstanceReport,
    LogsRequest,
    OpenStream,
    Report,
    StreamHello,
    Welcome,
)


class TalkingServer:
    """The server's end of the control socket: remembers what it heard, says what the test tells it to say."""

    def __init__(self, path: Path, *, cloud: str = "cld_" + "a" * 20) -> None:
        self._path, self.cloud = path, cloud
        self.hellos: list[AgentHello] = []
        self.reports: list[Report] = []
        self.heartbeats: list[Heartbeat] = []
        self.on_connect: list[Assignment] = []
        self._agent: Channel | None = None
        self._streams: dict[str, asyncio.Future[Channel]] = {}
        self._news = asyncio.Condition()
        self._server: asyncio.Server | None = None
        self._channels: set[Channel] = set()

    async def start(self) -> None:
        self._path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._accept, self._path)

    async def stop(self) -> None:
        """As a killed server: every connection ends, the socket stays behind."""
        if self._server is not None:
            self._server.close()
            for channel in list(self._channels):
                await channel.close()
            self._server = None

    async def say(self, *messages: Assignment) -> None:
        await self.until(lambda: self._agent is not None)
        assert self._agent is not None
        for message in messages:
            await self._agent.send(message)

    async def open(self, request: LogsRequest | ExecRequest) -> Channel:
        await self.until(lambda: self._agent is not None)
        assert self._agent is not None
        name = f"stream-{len(self._streams)}"
        self._streams[name] = asyncio.get_running_loop().create_future()
        await self._agent.send(OpenStream(stream=name, request=request))
        async with asyncio.timeout(10):
            return await self._streams[name]

    async def until(self, fact: Callable[[], bool], *, seconds: float = 20.0) -> None:
        """Wait for a fact about what was heard."""
        try:
            async with asyncio.timeout(seconds), self._news:
                await self._news.wait_for(fact)
        except TimeoutError:
            raise AssertionError(f"never heard; the last report was {self.reports[-1:]}") from None

    async def until_state(self, id: str, *states: str, seconds: float = 20.0) -> InstanceReport:
        """The instance's report once it is in one of these states."""
        await self.until(lambda: self.state(id) in states, seconds=seconds)
        found = self.instance(id)
        assert found is not None
        return found

    async def until_told(self, id: str, words: str) -> InstanceReport:
        """The instance's report once its reason says so."""
        await self.until(lambda: (found := self.instance(id)) is not None and words in found.reason)
        found = self.instance(id)
        assert found is not None
        return found

    def instance(self, id: str) -> InstanceReport | None:
        if not self.reports:
            return None
        return next((found for found in self.reports[-1].instances if found.id == id), None)

    def state(self, id: str) -> str | None:
        found = self.instance(id)
        return found.state if found else None

    def history(self, id: str) -> list[str]:
        """The states that were reported of an instance, in order, without repetitions."""
        states: list[str] = []
        for report in self.reports:
            for found in report.instances:
                if found.id == id and states[-1:] != [found.state]:
                    states.append(found.state)
        return states

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        channel = Channel(reader, writer)
        self._channels.add(channel)
        try:
            hello = await channel.receive()
            if isinstance(hello, StreamHello):
                self._streams[hello.stream].set_result(channel)
                return
            assert isinstance(hello, AgentHello)
            await channel.send(Welcome(cloud=self.cloud, heartbeat_seconds=0.2))
            for assignment in self.on_connect:
                await channel.send(assignment)
            async with self._news:
                self.hellos.append(hello)
                self._agent = channel
                self._news.notify_all()
            while True:
                message = await channel.receive()
                async with self._news:
                    if isinstance(message, Report):
                        self.reports.append(message)
                    elif isinstance(message, Heartbeat):
                        self.heartbeats.append(message)
                    self._news.notify_all()
        except (ChannelClosed, asyncio.CancelledError):
            pass
        finally:
            if self._agent is channel:
                self._agent = None
                self._channels.discard(channel)
                await channel.close()
