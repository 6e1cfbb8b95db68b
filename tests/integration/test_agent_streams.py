"""What passes between a person and an instance, through the agent: commands inside, and logs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.integration.agent_world import World, a_world, running_agent
from tests.unit.agent.factories import assignment, ins, spec

from shellwego.agent.logs import LogLimits
from shellwego.protocol.channel import Channel
from shellwego.protocol.messages import (
    ExecData,
    ExecRequest,
    ExecResize,
    ExecSignal,
    LogLine,
    LogsRequest,
    Message,
    StreamEnd,
)

B, C = ins("b"), ins("c")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with a_world(tmp_path) as made:
        yield made


async def read_stream(channel: Channel) -> list[Message]:
    heard: list[Message] = []
    async with asyncio.timeout(15):
        while not isinstance(heard[-1] if heard else None, StreamEnd):
            heard.append(await channel.receive())
    return heard


async def test_exec_carries_bytes_status_and_window(world: World) -> None:
    async with running_agent(world.agent()):
        await world.server.say(assignment(1, spec("b")))
        await world.server.until_state(B, "healthy")
        echo = await world.server.open(ExecRequest(instance=B, command=["sh", "-c", "exit 7"]))
        assert (await read_stream(echo))[-1] == StreamEnd(exit_code=7)
        cat = await world.server.open(ExecRequest(instance=B, command=["cat"], tty=True))
        await cat.send(ExecResize(columns=100, rows=30))
        await cat.send(ExecData(channel="stdin", data=b"\x00\xffhi"))
        assert await cat.receive() == ExecData(channel="stdout", data=b"\x00\xffhi")
        await cat.send(ExecData(channel="stdin", data=b""))
        assert (await read_stream(cat))[-1] == StreamEnd(exit_code=0)
        both = await world.server.open(ExecRequest(instance=B, command=["sh", "-c", "echo out; echo err >&2"]))
        said = await read_stream(both)
        assert ExecData(channel="stderr", data=b"err\n") in said
        killed = await world.server.open(ExecRequest(instance=B, command=["sleep", "99"]))
        await killed.send(ExecSignal(number=2))
        assert (await read_stream(killed))[-1] == StreamEnd(exit_code=130)
        nobody = await world.server.open(ExecRequest(instance=C, command=["true"]))
        end = (await read_stream(nobody))[-1]
        assert isinstance(end, StreamEnd)
        assert end.code == "not_found"


async def test_a_command_ends_when_nobody_listens_any_more(world: World) -> None:
    """A closed laptop must not leave a shell in the app for ever."""
    async with running_agent(world.agent()):
        await world.server.say(assignment(1, spec("b")))
        await world.server.until_state(B, "healthy")
        channel = await world.server.open(ExecRequest(instance=B, command=["sleep", "99"]))
        sessions = world.runtime._sandboxes[B].sessions
        await world.until(lambda: bool(sessions))
        await channel.close()
        await world.until(lambda: sessions[0].signals == [9])


async def test_logs_of_several_instances_by_time_and_as_they_come(world: World) -> None:
    async with running_agent(world.agent()):
        await world.server.say(assignment(1, spec("b"), spec("c")))
        await world.server.until_state(B, "healthy")
        await world.server.until_state(C, "healthy")
        for number in range(3):
            world.runtime.write_log(B, f"b{number}")
            world.runtime.write_log(C, f"c{number}", stream="stderr")
        channel = await world.server.open(LogsRequest(instances=[B, C], tail=3))
        lines = [m for m in await read_stream(channel) if isinstance(m, LogLine)]
        assert [line.text for line in lines] == ["c1", "b2", "c2"]
        assert lines[0].stream == "stderr"
        follow = await world.server.open(LogsRequest(instances=[B], tail=1, follow=True))
        assert await next_text(follow) == "b2"
        world.runtime.write_log(B, "news")
        assert await next_text(follow) == "news"
        await follow.close()


async def test_a_follower_misses_nothing_when_logs_are_rotated(world: World) -> None:
    world.limits = LogLimits(file_bytes=2000, files_per_instance=3)
    async with running_agent(world.agent()):
        await world.server.say(assignment(1, spec("b")))
        await world.server.until_state(B, "healthy")
        follow = await world.server.open(LogsRequest(instances=[B], follow=True))
        directory = next((world.root / "agent" / "logs").glob(f"*/{B}"))
        for number in range(120):
            world.runtime.write_log(B, f"line {number} " + "x" * 40)
            assert await next_text(follow) == f"line {number} " + "x" * 40
            if number % 40 == 39:
                # The name is not there between the rename and the writer's opening of a new file.
                await world.until(lambda: (new := directory / "current").exists() and new.stat().st_size < 2000)
        await follow.close()
        assert len(list(directory.iterdir())) == 3  # Bounded.


async def test_the_log_outlives_its_instance(world: World) -> None:
    """Users ask why the old release ended after it ended."""
    async with running_agent(world.agent()):
        await world.server.say(assignment(1, spec("b")))
        await world.server.until_state(B, "healthy")
        world.runtime.write_log(B, "last words")
        await world.server.say(assignment(2, absent=(B,)))
        await world.server.until_state(B, "stopped")
        channel = await world.server.open(LogsRequest(instances=[B]))
        assert [m.text for m in await read_stream(channel) if isinstance(m, LogLine)] == ["last words"]


async def test_a_reader_that_stands_still_holds_up_nobody(world: World) -> None:
    async with running_agent(world.agent()):
        await world.server.say(assignment(1, spec("b")))
        await world.server.until_state(B, "healthy")
        for _ in range(20):
            world.runtime.write_log(B, "\n".join("x" * 500 for _ in range(200)))
        channel = await world.server.open(LogsRequest(instances=[B], follow=True))
        world.runtime.crash(B)  # Nobody reads the channel, and the agent does its work.
        await world.server.until_state(B, "backoff")
        await world.server.until_state(B, "healthy")
        await channel.close()


async def next_text(channel: Channel) -> str:
    async with asyncio.timeout(15):
        message = await channel.receive()
    assert isinstance(message, LogLine)
    return message.text
