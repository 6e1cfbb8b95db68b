"""How does the edge hear from the server?

It connects to the server's control socket, says who it is, is told all routes and then what changes, and reports when a
generation is in force or a draining server's last request has ended. Changes that don't follow on what it has, in
whatever order and however often they come, change nothing: it asks for all again. Reports are whole and repeated now
and then, so a lost one is made good. While the server is away the edge serves what it has, and tries again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import structlog

from shellwego.kit.faults import fault_point, reach
from shellwego.protocol.channel import Channel, ChannelClosed, connect
from shellwego.protocol.messages import EdgeHello, EdgeReport, Refused, Routes, RoutesChanged, RoutesMissed, Welcome

log = structlog.get_logger()

HELLO = fault_point("edge.link.hello")
RECEIVED = fault_point("edge.link.received")
REPORTED = fault_point("edge.link.reported")

REPORT_SECONDS = 10.0


class Want(Protocol):
    def __call__(self, message: Routes | RoutesChanged, *, cloud: str) -> None: ...


class RefusedByServer(Exception):
    """The server can't work with this edge, or isn't the one whose routes are served here."""


class ServerLink:
    """One edge's conversation with the server, again and again. `cloud` names the cloud whose routes are in force."""

    def __init__(self, socket: Path, *, edge: str, version: str, want: Want, cloud: Callable[[], str]) -> None:
        self._socket, self._edge, self._version, self._want, self._cloud = socket, edge, version, want, cloud
        self._latest: EdgeReport | None = None
        self._changed = asyncio.Event()
        self._asked: int | None = None
        self._first = 0
        self._is_away = False

    def report(self, report: EdgeReport) -> None:
        """What the last round found. Sent when it differs from what was sent."""
        if report != self._latest:
            self._latest = report
            self._changed.set()

    async def talk(self) -> None:
        """One conversation, to its end; nothing but a word in the log if nobody is there. Raises RefusedByServer."""
        try:
            channel = await connect(self._socket)
        except (OSError, TimeoutError) as error:
            self._note_away(str(error))
            return
        self._asked = None
        try:
            await reach(HELLO)
            await channel.send(EdgeHello(edge=self._edge, version=self._version))
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._listen(channel), name="edge.link.listen")
                tasks.create_task(self._send_reports(channel), name="edge.link.report")
        except ChannelClosed as error:
            self._note_away(str(error))
        except BaseExceptionGroup as group:
            if not isinstance(group.exceptions[0], ChannelClosed):
                raise group.exceptions[0] from None
            self._note_away(str(group.exceptions[0]))
        finally:
            with contextlib.suppress(OSError):
                await channel.close()

    def _note_away(self, why: str) -> None:
        """Said once per absence: a server that is away for a night must not fill the log."""
        if not self._is_away:
            log.info("edge.server_away", why=why)
        self._is_away = True

    async def _listen(self, channel: Channel) -> None:
        cloud = self._cloud()
        while True:
            match await channel.receive():
                case Welcome() as welcome:
                    # A server that came up with an empty database is another cloud: it must not empty the proxy.
                    if cloud and welcome.cloud != cloud:
                        raise RefusedByServer(
                            f"the server is of cloud {welcome.cloud}, the routes in force are of {cloud}; "
                            "remove the edge's routes.json if that is meant"
                        )
                    cloud = welcome.cloud
                    self._is_away = False
                    log.info("edge.linked", cloud=cloud)
                case Refused() as refused:
                    raise RefusedByServer(f"{refused.code}: {refused.problem}")
                case Routes() | RoutesChanged() as message if self._asked is None or message.generation > self._asked:
                    await reach(RECEIVED)
                    if isinstance(message, RoutesChanged) and message.since != self._asked:
                        await channel.send(RoutesMissed(generation=self._asked or 0))
                        continue
                    if self._asked is None:
                        self._first = message.generation
                        self._latest = None
                    self._asked = message.generation
                    self._want(message, cloud=cloud)
                case _:
                    pass  # An older generation, or a message of a newer server that we need not know.

    async def _send_reports(self, channel: Channel) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REPORT_SECONDS):
                    await self._changed.wait()
            self._changed.clear()
            report = self._latest
            # Before this server's first routes are in force there is nothing to tell it: an older server's
            # generation means nothing to it.
            if report is not None and self._asked is not None and self._first <= report.generation <= self._asked:
                await channel.send(report)
                await reach(REPORTED)
