"""Can a few machines that send and read as slowly as they can keep others from being served (slowloris)?"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest
from tests.contract.edge_world import HOST, World, read_answer, until

pytestmark = pytest.mark.root

HEADERS_SECONDS, SILENCE_SECONDS = 1.5, 2.0


async def serve(world: World, *, headers_seconds: float = HEADERS_SECONDS, under: tuple[str, ...] = ()) -> None:
    limits = ("--headers-seconds", str(headers_seconds), "--silence-seconds", str(SILENCE_SECONDS))
    await world.start_edge(extra=limits, under=under)
    await world.server.serve(world.route("shop", await world.start_app("ins_a"), await world.start_app("ins_b")))


@dataclass
class Crowd:
    """Connections that only the edge's limits end."""

    world: World
    open: int = 0
    ended: int = 0
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def bring(self, count: int, misbehave: Callable[[asyncio.StreamWriter], Awaitable[None]]) -> None:
        """From thirty addresses in turn. Returns when all are connected."""
        for number in range(count):
            reader, writer = await self.world.connect(f"127.0.7.{number % 30 + 1}")
            self.open += 1
            self.tasks.append(asyncio.create_task(self._stay(reader, writer, misbehave)))

    async def _stay(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        misbehave: Callable[[asyncio.StreamWriter], Awaitable[None]],
    ) -> None:
        with contextlib.suppress(OSError):
            await misbehave(writer)
        with contextlib.suppress(OSError):  # What ended it: a page with 408, or nothing but the end.
            await reader.read()
        writer.close()
        self.open -= 1
        self.ended += 1


async def dribble_headers(writer: asyncio.StreamWriter) -> None:
    for letter in f"GET / HTTP/1.1\r\nhost: {HOST}\r\nx: {'y' * 4000}":
        writer.write(letter.encode())
        await writer.drain()
        if writer.is_closing():
            return
        await asyncio.sleep(0.3)
    raise AssertionError("nobody ended it")


async def stop_in_a_body(writer: asyncio.StreamWriter) -> None:
    writer.write(f"POST / HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 1000\r\n\r\nx".encode())
    await writer.drain()


async def read_nothing(writer: asyncio.StreamWriter) -> None:
    """More than all buffers on the way hold: the app is stuck with it."""
    transport = writer.transport
    assert isinstance(transport, asyncio.ReadTransport)
    transport.pause_reading()
    writer.write(f"GET /big HTTP/1.1\r\nhost: {HOST}\r\n\r\n".encode())
    await asyncio.sleep(3 * SILENCE_SECONDS)
    transport.resume_reading()


async def connections(world: World) -> int:
    """How many HAProxy has, without this question."""
    info = (await world.runtime.ask(["show info"]))[0]
    return int(next(line for line in info.splitlines() if line.startswith("CurrConns:")).split(":")[1]) - 1


async def test_hundreds_of_slow_clients_keep_nobody_waiting_and_are_ended(world: World) -> None:
    await serve(world)
    crowd = Crowd(world)
    async with world.load(HOST) as load:
        await crowd.bring(240, dribble_headers)
        await crowd.bring(60, stop_in_a_body)
        await crowd.bring(30, read_nothing)
        assert await connections(world) >= 200, "they are there, all at once"
        await world.progress(load)
        await until(lambda: crowd.open == 0, "each of them was ended")
    await asyncio.gather(*crowd.tasks)
    assert load.failures == []
    assert crowd.ended == 330
    async with asyncio.timeout(20):
        while await connections(world) > 2:  # noqa: ASYNC110 - HAProxy sets no event
            await asyncio.sleep(0.05)


async def test_a_body_may_take_its_time_as_long_as_it_goes_on(world: World) -> None:
    """A phone on a slow line uploads for minutes; that is no attack."""
    await serve(world)
    size, pieces = 12, 12
    reader, writer = await world.connect()
    writer.write(f"POST / HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: {size * pieces}\r\n\r\n".encode())
    for _ in range(pieces):
        writer.write(b"x" * size)
        await writer.drain()
        await asyncio.sleep(2 * max(HEADERS_SECONDS, SILENCE_SECONDS) / pieces)
    assert (await read_answer(reader)).document["size"] == size * pieces
    writer.close()


async def test_one_address_gets_its_share_of_the_connections_and_no_more(world: World) -> None:
    """HAProxy takes 200 connections with so few descriptors, and 50 of them from one address."""
    await serve(world, headers_seconds=60, under=("prlimit", "--nofile=1600:1600"))

    async def be_refused() -> None:
        with contextlib.suppress(ConnectionError):
            reader, writer = await world.connect("127.0.0.9")
            try:
                await reader.read()
            finally:
                writer.close()

    crowd = [asyncio.create_task(be_refused()) for _ in range(80)]
    await until(lambda: sum(task.done() for task in crowd) >= 30, "thirty are refused")
    assert (await world.get(HOST)).status == 200, "others are served meanwhile"
    assert sum(task.done() for task in crowd) == 30, "the other fifty may stay"
    for task in crowd:
        task.cancel()
    await asyncio.gather(*crowd, return_exceptions=True)
