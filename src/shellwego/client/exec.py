"""How does a command run inside an instance, with its input, output and terminal here?

One WebSocket per command (the subprotocol is described in `protocol.public`). An Execution gives what the command
prints as it comes and, at the end, its exit status.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import httpx
from pydantic import ValidationError
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

from shellwego.client.errors import CannotReach, NotACloud, Refused
from shellwego.client.transport import Transport, address_of
from shellwego.protocol.public import Problem

SUBPROTOCOL = Subprotocol("shellwego.exec.v1")
STDIN, STDOUT, STDERR = b"\0", b"\1", b"\2"
MAXIMUM_MESSAGE_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Size:
    columns: int
    rows: int


@dataclass(frozen=True, slots=True)
class Printed:
    """Some of what the command printed. `is_error` is its stderr (never with a terminal, which has one stream)."""

    data: bytes
    is_error: bool = False


class Execution:
    """One running command. `exit_status` is known once `output` has ended."""

    def __init__(self, connection: ClientConnection, url: str) -> None:
        self._connection = connection
        self._url = url
        self.exit_status: int | None = None

    async def output(self) -> AsyncIterator[Printed]:
        """What the command prints, to its end. Raises Refused for the cloud's reason, CannotReach for a cut line."""
        try:
            async for message in self._connection:
                if isinstance(message, bytes):
                    channel, data = message[:1], message[1:]
                    if channel in {STDOUT, STDERR}:
                        yield Printed(data, channel == STDERR)
                    continue
                self._last_word(message)
                if self.exit_status is not None:
                    return
        except ConnectionClosed as error:
            raise CannotReach(self._url, "the connection was cut; the command may go on", sent=True) from error
        raise CannotReach(self._url, "the connection ended before the command did", sent=True)

    def _last_word(self, message: str) -> None:
        try:
            said: dict[str, Any] = json.loads(message)
            if "problem" in said:
                raise Refused(Problem.model_validate(said["problem"]))
            if "exit" in said:
                self.exit_status = int(said["exit"])
        except (ValueError, TypeError, AttributeError, ValidationError) as error:
            raise NotACloud(self._url, 101, "an answer that can't be understood") from error

    async def send_input(self, data: bytes) -> None:
        await self._send(STDIN + data)

    async def end_input(self) -> None:
        await self._send(STDIN)

    async def resize(self, size: Size) -> None:
        await self._send(json.dumps({"resize": {"columns": size.columns, "rows": size.rows}}))

    async def signal(self, number: int) -> None:
        await self._send(json.dumps({"signal": number}))

    async def _send(self, message: str | bytes) -> None:
        # The command may have ended a moment ago, which `output` is about to say.
        with contextlib.suppress(ConnectionClosed):
            await self._connection.send(message)


class Exec:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    @contextlib.asynccontextmanager
    async def run(
        self, instance: str, command: Sequence[str], *, terminal: Size | None = None
    ) -> AsyncIterator[Execution]:
        """Start the command; with `terminal`, on a pseudo terminal of that size. Leaving ends it."""
        query: list[tuple[str, str]] = [("command", word) for word in command]
        if terminal is not None:
            query += [("tty", "true"), ("columns", str(terminal.columns)), ("rows", str(terminal.rows))]
        url = self._transport.url
        target = f"ws{url.removeprefix('http')}/v1/instances/{quote(instance, safe='')}/exec?{urlencode(query)}"
        where: dict[str, Any] = {}
        address, other_host = address_of(url)
        if other_host is not None:
            parsed = httpx.URL(address)
            where = {"host": parsed.host, "port": parsed.port or (443 if parsed.scheme == "https" else 80)}
        try:
            connection = await connect(
                target,
                subprotocols=[SUBPROTOCOL],
                additional_headers=await self._transport.authorization(),
                max_size=MAXIMUM_MESSAGE_BYTES,
                ssl=self._transport.tls,
                compression=None,  # Keystrokes and small answers gain nothing and wait for it.
                **where,
            )
        except InvalidStatus as error:
            raise _refusal(error, url) from error
        except InvalidHandshake as error:
            raise NotACloud(url, 200, str(error)) from error
        except TimeoutError as error:
            raise CannotReach(url, "it didn't answer in time") from error
        except (OSError, ssl.SSLError) as error:
            raise CannotReach(url, error.strerror or str(error)) from error
        try:
            yield Execution(connection, url)
        finally:
            # Not awaited to the last frame when we are being cancelled: the other side sees the socket close.
            with contextlib.suppress(asyncio.TimeoutError):
                async with asyncio.timeout(2.0):
                    await connection.close()


def _refusal(error: InvalidStatus, url: str) -> Refused | NotACloud:
    try:
        return Refused(Problem.model_validate_json(error.response.body or b""))
    except ValidationError:
        return NotACloud(url, error.response.status_code, error.response.reason_phrase)
