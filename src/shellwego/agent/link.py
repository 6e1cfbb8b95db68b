"""How does the agent stay in touch with its server?

It connects, says hello, and then listens and speaks at once: assignments and requests for streams come in, heartbeats
and whole reports go out. The server may be away for hours: nothing here waits for it, and the node goes on by what is
on its disk. Messages that come twice or late do no harm, because each assignment and each report is whole.

Which assignment counts (fault matrix, row 22):

* On one connection generations only grow. A lower one than the last is a stray, and is ignored with a warning.
* The first on a connection is obeyed even if it is lower than ours. Then the server was restored from an older
  backup; it is what the operator works with now, and refusing it would leave the node without one for good. It can do
  no harm: instances are removed only by name, ids are never used twice, and what it doesn't know goes on running and is
  reported as unclaimed. It is warned of in every heartbeat until the generations have caught up.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from shellwego.kit.backoff import backoff_seconds
from shellwego.kit.faults import fault_point, reach
from shellwego.kit.supervise import apart
from shellwego.protocol.channel import Channel, ChannelClosed, connect
from shellwego.protocol.messages import (
    AgentHello,
    Assignment,
    ExecRequest,
    Heartbeat,
    LogsRequest,
    OpenStream,
    Refused,
    Report,
    StreamEnd,
    StreamHello,
    Welcome,
)

log = structlog.get_logger()

ASSIGNMENT_ARRIVED = fault_point("agent.assignment.arrived")
REPORT_SENT = fault_point("agent.report.sent")

REPORT_SECONDS = 10.0
_HELLO_SECONDS = 10.0
_SEND_SECONDS = 30.0
_LONGEST_WAIT_SECONDS = 1.0
"""An attempt costs next to nothing, and until one succeeds nothing new is begun on this node."""
_REFUSED_WAIT_SECONDS = 15.0
REPORT_GAP_SECONDS = 0.02
"""Changes that come together go out together."""
REPORT_GAP_PER_INSTANCE_SECONDS = 0.0005
"""
A report is whole, so it costs the server as much as there are instances, whatever changed. A thousand of them that
crash again and again may be told of twice a second; of three, each change is told at once.
"""
_MOST_STREAMS = 256

OnAssignment = Callable[[Assignment, bool], Awaitable[None]]
"""Told of each assignment, and whether it is the first on its connection."""
ServeStream = Callable[[Channel, LogsRequest | ExecRequest], Awaitable[None]]


class ServerRefused(Exception):
    """The server won't work with this agent, and said why."""


class Link:
    """Connects again and again. `changed` asks for a report now."""

    def __init__(
        self,
        socket: Path,
        *,
        hello: Callable[[], AgentHello],
        heartbeat: Callable[[], Heartbeat],
        report: Callable[[], Report],
        on_welcome: Callable[[Welcome], Awaitable[None]],
        on_assignment: OnAssignment,
        serve_stream: ServeStream,
    ) -> None:
        self._socket = socket
        self._hello, self._heartbeat, self._report = hello, heartbeat, report
        self._on_welcome, self._on_assignment, self._serve_stream = on_welcome, on_assignment, serve_stream
        self._changed = asyncio.Event()
        self._streams = 0
        self.problem = ""

    def changed(self) -> None:
        self._changed.set()

    async def keep_connected(self) -> None:
        """Runs until cancelled."""
        failures = 0
        while True:
            connected = False
            try:
                channel = await connect(self._socket)
                try:
                    heartbeat_seconds = await self._greet(channel)
                    connected, self.problem = True, ""
                    log.info("link.connected")
                    await apart(self._converse(channel, heartbeat_seconds), name="link-conversation")
                finally:
                    await channel.close()
            except ServerRefused as error:
                self.problem = str(error)
                log.error("link.refused", problem=self.problem)
                await asyncio.sleep(_REFUSED_WAIT_SECONDS)
            except (ChannelClosed, OSError, TimeoutError) as error:
                if connected or failures == 0:  # Once is news; every few seconds for hours is noise.
                    log.warning("link.lost", error=repr(error))
            failures = 1 if connected else failures + 1
            # A restarted server shall not meet all its agents in one moment, nor wait long for any.
            await asyncio.sleep(backoff_seconds(failures, first=0.1, limit=_LONGEST_WAIT_SECONDS, jitter=random.random))

    async def _greet(self, channel: Channel) -> float:
        await channel.send(self._hello())
        async with asyncio.timeout(_HELLO_SECONDS):
            answer = await channel.receive()
        match answer:
            case Welcome():
                await self._on_welcome(answer)
                return max(0.1, answer.heartbeat_seconds)
            case Refused(code=code, problem=problem):
                raise ServerRefused(f"The server refused this agent ({code}): {problem}")
            case _:
                raise ChannelClosed(f"{type(answer).__name__} in answer to a hello")

    async def _converse(self, channel: Channel, heartbeat_seconds: float) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._listen(channel, group), name="link-listen")
                group.create_task(self._beat(channel, heartbeat_seconds), name="link-heartbeat")
                group.create_task(self._tell(channel), name="link-report")
        except ExceptionGroup as ended:
            reason = ended.exceptions[0]
            if isinstance(reason, ServerRefused):
                raise reason from None
            if not isinstance(reason, (ChannelClosed, OSError, TimeoutError)):
                log.error("link.broke", exc_info=reason)  # A bug; connecting again is the best that can be done.
            raise ChannelClosed(repr(reason)) from None

    async def _listen(self, channel: Channel, group: asyncio.TaskGroup) -> None:
        first = True
        while True:
            message = await channel.receive()
            match message:
                case Assignment():
                    await reach(ASSIGNMENT_ARRIVED)
                    await self._on_assignment(message, first)
                    first = False
                case OpenStream():
                    group.create_task(self._stream(message), name=f"stream-{message.stream}")
                case Refused(code=code, problem=problem):
                    raise ServerRefused(f"The server refused this agent ({code}): {problem}")
                case _:
                    log.warning("link.unexpected", message=type(message).__name__)

    async def _beat(self, channel: Channel, every_seconds: float) -> None:
        while True:
            async with asyncio.timeout(_SEND_SECONDS):
                await channel.send(self._heartbeat())
            await asyncio.sleep(every_seconds)

    async def _tell(self, channel: Channel) -> None:
        while True:
            self._changed.clear()
            report = self._report()
            async with asyncio.timeout(_SEND_SECONDS):
                await channel.send(report)
            await reach(REPORT_SENT)
            # Before the wait: what happens after a quiet moment, like an app that becomes healthy, is told at once.
            await asyncio.sleep(REPORT_GAP_SECONDS + len(report.instances) * REPORT_GAP_PER_INSTANCE_SECONDS)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REPORT_SECONDS):
                    await self._changed.wait()

    async def _stream(self, request: OpenStream) -> None:
        """Serve one log or exec stream on a connection of its own. Its trouble is its own."""
        try:
            channel = await connect(self._socket)
        except (OSError, TimeoutError) as error:
            log.warning("stream.not_connected", stream=request.stream, error=repr(error))
            return
        self._streams += 1
        try:
            await channel.send(StreamHello(stream=request.stream))
            if self._streams > _MOST_STREAMS:
                await channel.send(
                    StreamEnd(code="too_many_requests", problem=f"This node serves {_MOST_STREAMS} streams already.")
                )
                return
            await self._serve_stream(channel, request.request)
        except ChannelClosed:
            pass  # The reader left: the most usual end of a stream that follows.
        except Exception as error:
            log.warning("stream.failed", stream=request.stream, exc_info=True)
            with contextlib.suppress(ChannelClosed):
                await channel.send(StreamEnd(code="internal", problem=f"The stream broke: {error!r}"))
        finally:
            self._streams -= 1
            await channel.close()
