"""How do messages travel over a byte stream?

Four bytes of length, big-endian, then one MessagePack message. The same framing serves Unix sockets here and the
network transport of a fleet. A frame over MAXIMUM_FRAME_BYTES ends the connection: nobody honest sends one.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Union

import msgspec

from shellwego.protocol import messages
from shellwego.protocol.messages import Message

MAXIMUM_FRAME_BYTES = 32 << 20

_TYPES = tuple(
    value
    for value in vars(messages).values()
    if isinstance(value, type) and issubclass(value, Message) and value is not Message
)
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(type=Union[_TYPES])  # noqa: UP007 - built at run time
_encoder = msgspec.msgpack.Encoder()


class ChannelClosed(Exception):
    """The other side is gone, or said something that can't be understood. Connect again."""


class Channel:
    """One conversation. `send` waits while the other side is slow; `receive` raises ChannelClosed at the end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._sending = asyncio.Lock()

    async def send(self, message: Message) -> None:
        """Send one message. Raises ChannelClosed."""
        body = _encoder.encode(message)
        try:
            async with self._sending:
                self._writer.write(len(body).to_bytes(4, "big") + body)
                await self._writer.drain()
        except (OSError, RuntimeError) as error:
            raise ChannelClosed(str(error)) from error

    async def receive(self) -> Message:
        """The next message. Raises ChannelClosed."""
        try:
            length = int.from_bytes(await self._reader.readexactly(4), "big")
            if length > MAXIMUM_FRAME_BYTES:
                raise ChannelClosed(f"a frame of {length} bytes")
            return _decoder.decode(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, OSError) as error:
            raise ChannelClosed("the connection ended") from error
        except msgspec.DecodeError as error:
            raise ChannelClosed(f"not a message of ours: {error}") from error

    async def close(self) -> None:
        """End the conversation. Safe to repeat."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


async def connect(path: Path, *, timeout_seconds: float = 5.0) -> Channel:
    """A channel to the server's Unix socket. Raises OSError or TimeoutError."""
    async with asyncio.timeout(timeout_seconds):
        reader, writer = await asyncio.open_unix_connection(path)
    return Channel(reader, writer)
