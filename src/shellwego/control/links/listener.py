"""Who is calling?

The control socket's door: the first message says whether an agent, an edge or a stream is at the other end, and each is
handed to its own module. The socket is readable by root alone, which is who agents and edges are on one machine.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from shellwego.control.links.streams import Streams
from shellwego.core.errors import ShellWeGoError
from shellwego.protocol.channel import Channel, ChannelClosed
from shellwego.protocol.messages import (
    OLDEST_SUPPORTED,
    PROTOCOL_VERSION,
    AgentHello,
    EdgeHello,
    Message,
    Refused,
    StreamHello,
)

log = structlog.get_logger()
HELLO_SECONDS = 10.0


class ControlListener:
    """Accepts connections on a Unix socket until cancelled."""

    def __init__(
        self,
        path: Path,
        *,
        on_agent: Callable[[Channel, AgentHello], Awaitable[None]],
        on_edge: Callable[[Channel, EdgeHello], Awaitable[None]],
        streams: Streams,
    ) -> None:
        self._path, self._on_agent, self._on_edge, self._streams = path, on_agent, on_edge, streams
        self._calls: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Serve until cancelled; then every connection is closed."""
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()  # A killed server leaves its socket behind, and bind(2) refuses an existing name.
        server = await asyncio.start_unix_server(self._accept, self._path, backlog=256)
        self._path.chmod(0o600)
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            server.close()
            for call in self._calls:
                call.cancel()
            await asyncio.gather(*self._calls, return_exceptions=True)
            self._path.unlink(missing_ok=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        call = asyncio.current_task()
        assert call is not None
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        channel = Channel(reader, writer)
        handed_over = False
        try:
            async with asyncio.timeout(HELLO_SECONDS):
                hello = await channel.receive()
            handed_over = await self._greet(channel, hello)
        except (ChannelClosed, TimeoutError) as error:
            log.info("link.closed", why=str(error))
        except asyncio.CancelledError:
            # Our own stop: asyncio's connection task must end quietly, or it is reported as never retrieved.
            pass
        except ShellWeGoError as error:  # The database is away, say. The caller comes back, again and again.
            log.warning("link.ended", why=str(error))
        except Exception:
            log.exception("link.failed")
        finally:
            if not handed_over:
                with contextlib.suppress(asyncio.CancelledError):
                    await channel.close()

    async def _greet(self, channel: Channel, hello: Message) -> bool:
        """Serve the caller to the end of its connection; true when somebody else owns it from now on."""
        spoken = getattr(hello, "protocol", PROTOCOL_VERSION)
        if not OLDEST_SUPPORTED <= spoken <= PROTOCOL_VERSION:
            problem = f"This server speaks protocol {OLDEST_SUPPORTED} to {PROTOCOL_VERSION}, not {spoken}. Upgrade."
            await channel.send(Refused(code="protocol", problem=problem))
            return False
        match hello:
            case AgentHello():
                await self._on_agent(channel, hello)
            case EdgeHello():
                await self._on_edge(channel, hello)
            case StreamHello():
                return self._streams.claim(hello, channel)
            case _:
                await channel.send(Refused(code="hello", problem="The first message must be a hello."))
        return False
