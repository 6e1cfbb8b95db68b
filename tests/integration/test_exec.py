"""A command inside an instance, over the WebSocket that the CLI uses."""

from __future__ import annotations

import asyncio
import json

import pytest
import websockets
from tests.integration.agents import FakeStream
from tests.integration.conftest import World
from tests.integration.test_deployment_events import token_of
from tests.integration.test_logs import add_instance, app  # noqa: F401 - a fixture
from tests.integration.wire import Wire

from shellwego.core.ids import NodeId
from shellwego.protocol.messages import ExecData, ExecRequest, ExecResize, ExecSignal, StreamEnd

PROTOCOL = [websockets.Subprotocol("shellwego.exec.v1")]


@pytest.fixture
async def url(world: World, app):  # noqa: F811
    instance = await add_instance(world, next(iter(world.agents.connected)))
    async with Wire(world.api) as wire:
        yield f"{wire.url.replace('http', 'ws')}/v1/instances/{instance}/exec"


def dial(url: str, client) -> websockets.connect:
    headers = {"Authorization": f"Bearer {token_of(client)}"}
    return websockets.connect(url, subprotocols=PROTOCOL, additional_headers=headers, max_size=None)


async def test_input_output_window_signals_and_the_exit_status_pass(world: World, member, url):
    async with dial(f"{url}?command=sh&command=-c&command=x&tty=true&columns=100&rows=30", member) as socket:
        stream: FakeStream = world.agents.streams[0]
        asked = stream.request
        assert isinstance(asked, ExecRequest)
        assert (asked.command, asked.tty, asked.columns, asked.rows) == (["sh", "-c", "x"], True, 100, 30)
        stream.say(ExecData(channel="stdout", data=b"out\xff"), ExecData(channel="stderr", data=b"err"))
        assert [await socket.recv(), await socket.recv()] == [b"\x01out\xff", b"\x02err"]
        await socket.send(b"\x00typed")
        await socket.send(json.dumps({"resize": {"columns": 120, "rows": 40}}))
        await socket.send(json.dumps({"signal": 2}))
        await socket.send(b"\x00")
        async with asyncio.timeout(10):
            while len(stream.heard) < 4:
                stream.arrived.clear()
                await stream.arrived.wait()
        assert stream.heard == [
            ExecData(channel="stdin", data=b"typed"),
            ExecResize(columns=120, rows=40),
            ExecSignal(number=2),
            ExecData(channel="stdin", data=b""),
        ]
        stream.say(ExecData(channel="stdout", data=b"x" * 3_000_000), StreamEnd(exit_code=7))
        assert len(await socket.recv()) == 3_000_001
        assert json.loads(await socket.recv()) == {"exit": 7}
        with pytest.raises(websockets.ConnectionClosed):
            await socket.recv()
    await asyncio.wait_for(stream.closed.wait(), 10)


async def test_leaving_ends_the_command(world: World, member, url):
    async with dial(f"{url}?command=sleep&command=1000", member):
        pass
    await asyncio.wait_for(world.agents.streams[0].closed.wait(), 10)


async def test_what_goes_wrong_later_is_the_last_message(world: World, member, url):
    async with dial(f"{url}?command=nothing", member) as socket:
        world.agents.streams[0].say(StreamEnd(code="start_failed", problem="nothing: not found"))
        last = json.loads(await socket.recv())["problem"]
        assert (last["code"], last["detail"]) == ("start_failed", "nothing: not found")
    async with dial(f"{url}?command=nothing", member) as socket:
        world.agents.streams[1].say(None)
        assert json.loads(await socket.recv())["problem"]["code"] == "node_unavailable"


@pytest.mark.parametrize(
    "said", ["{", '{"resize": {"columns": 0, "rows": 1}}', '{"signal": 99}', b"\x01x", b"", "[" * 900]
)
async def test_what_is_not_of_the_protocol_ends_it_with_a_problem(world: World, member, url, said):
    async with dial(f"{url}?command=sh", member) as socket:
        await socket.send(said)
        assert json.loads(await socket.recv())["problem"]["code"] == "invalid_field"


async def test_refusals_come_before_the_upgrade(world: World, member, url):
    async def refused(client, address: str) -> tuple[int, str]:
        with pytest.raises(websockets.InvalidStatus) as error:
            await dial(address, client)
        return error.value.response.status_code, json.loads(bytes(error.value.response.body or b""))["code"]

    assert await refused(member, url) == (422, "invalid_field")
    assert await refused(member, f"{url}?command=a%00b") == (422, "invalid_field")
    assert await refused(member, f"{url}?command=" + "&command=x" * 300) == (422, "invalid_field")
    async with world.client(await world.new_user("other")) as stranger:
        assert await refused(stranger, f"{url}?command=sh") == (404, "not_found")
    async with world.client("swg_" + "0" * 64) as nobody:
        assert await refused(nobody, f"{url}?command=sh") == (401, "unauthenticated")
    world.agents.connected = set[NodeId]()
    assert await refused(member, f"{url}?command=sh") == (503, "node_unavailable")
