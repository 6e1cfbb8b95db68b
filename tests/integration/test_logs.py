"""Logs: merged, labelled, followed across deployments."""

from __future__ import annotations

import asyncio
import json

import pytest
import websockets
from tests.integration.agents import FakeStream
from tests.integration.conftest import World
from tests.integration.test_deployment_events import token_of
from tests.integration.test_deployments import deploy, release, succeed
from tests.integration.test_problems import problem
from tests.integration.wire import Wire

from shellwego.control.store.records import InstanceRecord, NodeRecord
from shellwego.core.ids import InstanceId, NodeId, ReleaseId
from shellwego.protocol.messages import LogLine, LogsRequest, StreamEnd


async def add_instance(world: World, node: str, process: str = "web") -> str:
    async with world.store.writing() as work:
        cloud = work.for_the_cloud()
        app = await cloud.apps.named("blog")
        await work.nodes.ensure(NodeRecord(NodeId(node), f"name-{node[-3:]}", work.now, last_seen_at=work.now))
        instance = InstanceRecord(
            id=InstanceId(work.new_id("instance")),
            organisation=app.organisation,
            app=app.id,
            release=ReleaseId(str(app.current_release)),
            process=process,
            created_at=work.now,
            node=NodeId(node),
        )
        await cloud.instances.add(instance)
        await work.emit("instance.created", subject=instance.id, organisation=app.organisation)
    return instance.id


@pytest.fixture
async def app(world: World, member):
    await member.post("/v1/apps", json={"name": "blog"})
    made = await deploy(member, image="x")
    await release(world, made["id"])
    await succeed(world, made["id"])


def line(instance: str, at: float, text: str, **more) -> LogLine:
    return LogLine(instance=instance, at=at, stream="stdout", text=text, **more)


async def test_lines_of_several_nodes_are_in_the_order_of_time(world: World, member, app):
    nodes = ["nod_" + "a" * 20, "nod_" + "b" * 20]
    world.agents.connected = {NodeId(n) for n in nodes}
    one, two = await add_instance(world, nodes[0]), await add_instance(world, nodes[1], "worker")

    def answer(stream: FakeStream) -> None:
        assert isinstance(stream.request, LogsRequest)
        assert not stream.request.follow
        mine = (
            [(one, 1.0, "a"), (one, 3.0, "c")]
            if one in stream.request.instances
            else [(two, 2.0, "b"), (two, 4.0, "d")]
        )
        stream.say(*(line(*said) for said in mine), StreamEnd())

    world.agents.on_open = answer
    got = await member.get("/v1/apps/blog/logs")
    assert got.headers["content-type"].startswith("application/x-ndjson")
    entries = [json.loads(text) for text in got.text.splitlines()]
    assert [e["text"] for e in entries] == ["a", "b", "c", "d"]
    assert (entries[1]["process"], entries[1]["release"], entries[1]["stream"]) == ("worker", "v1", "stdout")
    last = await member.get("/v1/apps/blog/logs", params={"tail": 1})
    assert [json.loads(t)["text"] for t in last.text.splitlines()] == ["d"]
    only = await member.get("/v1/apps/blog/logs", params={"process": "worker"})
    assert [json.loads(t)["text"] for t in only.text.splitlines()] == ["b", "d"]
    assert all(stream.closed.is_set() for stream in world.agents.streams)


async def test_a_tail_is_so_many_lines_however_many_pieces_they_have(world: World, member, app):
    """Two instances on two nodes, one of which writes a traceback word by word."""
    nodes = ["nod_" + letter * 20 for letter in "ab"]
    world.agents.connected = {NodeId(n) for n in nodes}
    one, two = await add_instance(world, nodes[0]), await add_instance(world, nodes[1])

    def answer(stream: FakeStream) -> None:
        assert isinstance(stream.request, LogsRequest)
        if one in stream.request.instances:
            stream.say(line(one, 1.0, "a"), line(one, 2.0, "b"))
        else:
            stream.say(*(line(two, 3.0, word, partial=True) for word in ("Trace", "back", ":")), line(two, 3.0, ""))
        stream.say(StreamEnd())

    world.agents.on_open = answer
    last = await member.get("/v1/apps/blog/logs", params={"tail": 2})
    assert [json.loads(t)["text"] for t in last.text.splitlines()] == ["b", "Traceback:"]


async def test_hostile_lines_stay_lines(world: World, member, app):
    """An app that prints fake JSON, line ends, ANSI or a 10 MB line forges nobody's log and fills nobody's memory."""
    node = next(iter(world.agents.connected))
    instance = await add_instance(world, node)
    odd = '{"at": "now"}\n\r\ndata: forged\n\n\x1b[31m\x00\ud7ff'

    def answer(stream: FakeStream) -> None:
        stream.say(line(instance, 1.0, odd))
        stream.say(*(line(instance, 2.0, "x" * 100_000, partial=True) for _ in range(20)))
        stream.say(line(instance, 2.0, "end"), StreamEnd())

    world.agents.on_open = answer
    got = await member.get("/v1/apps/blog/logs")
    entries = [json.loads(text) for text in got.text.splitlines()]
    assert entries[0]["text"] == odd
    assert max(len(e["text"]) for e in entries) < 200_000
    assert sum(len(e["text"]) for e in entries[1:]) == 2_000_003


async def test_a_node_that_is_away_is_told(world: World, member, app):
    await add_instance(world, "nod_" + "z" * 20)
    problem(await member.get("/v1/apps/blog/logs"), 503, "node_unavailable")


async def test_an_app_without_instances_has_an_empty_log(member, app):
    got = await member.get("/v1/apps/blog/logs")
    assert (got.status_code, got.text) == (200, "")


@pytest.mark.parametrize("query", ["tail=-1", "tail=10001", "since=yesterday", "instance=%00", "tail=x"])
async def test_an_odd_question_is_refused(member, app, query):
    assert (await member.get(f"/v1/apps/blog/logs?{query}")).status_code in {404, 422}


async def test_followers_see_new_lines_and_new_instances(world: World, member, app):
    """`logs -f` goes on through a deployment: the new instances are in it without asking."""
    node = next(iter(world.agents.connected))
    first = await add_instance(world, node)
    following: dict[str, FakeStream] = {}
    opened = asyncio.Event()

    def answer(stream: FakeStream) -> None:
        if not stream.request.follow:
            stream.say(line(first, 1.0, "old", place="1.20"), StreamEnd())
        else:
            following[stream.request.instances[0]] = stream
            opened.set()

    world.agents.on_open = answer
    async with Wire(world.api) as wire:
        headers = {"Authorization": f"Bearer {token_of(member)}", "Accept": "text/event-stream"}
        texts: list[str] = []
        async with wire.client.stream("GET", "/v1/apps/blog/logs", headers=headers) as got:
            assert got.headers["content-type"].startswith("text/event-stream")
            async for text in got.aiter_lines():
                if not text.startswith("data: "):
                    continue
                texts.append(json.loads(text.removeprefix("data: "))["text"])
                if texts[-1] == "old":
                    await asyncio.wait_for(opened.wait(), 10)
                    assert following[first].request.after == {first: "1.20"}
                    following[first].say(line(first, 1.0, "new, of the same instant"))
                elif texts[-1].startswith("new"):
                    opened.clear()
                    second = await add_instance(world, node)
                    await asyncio.wait_for(opened.wait(), 10)
                    following[second].say(line(second, 6.0, "of the second"))
                else:
                    break
        assert texts == ["old", "new, of the same instant", "of the second"]
        async with asyncio.timeout(10):
            await asyncio.gather(*(stream.closed.wait() for stream in world.agents.streams))


async def test_a_follower_that_comes_back_gets_each_line_once(world: World, member, app):
    """Also lines of one instant, of which an app's buffer is full, and of instances that don't take turns."""
    node = next(iter(world.agents.connected))
    one, two, silent = [await add_instance(world, node) for _ in range(3)]
    said = {
        one: [line(one, 7.1234567891 + n // 3, f"one {n}", place=f"20.{n}") for n in range(9)],
        two: [line(two, 6.5 - n, f"two {n}, its clock goes back", place=f"31.{n}") for n in range(4)],
        silent: [line(silent, 7.5, "at last", place="41.0")],
    }

    def answer(stream: FakeStream) -> None:
        if stream.request.follow:
            return
        for id in stream.request.instances:
            place = stream.request.after.get(id)
            stream.say(*said[id][1 + int(place.partition(".")[2]) if place else 0 :])
        stream.say(StreamEnd())

    world.agents.on_open = answer

    async def read(wire: Wire, last_id: str, count: int) -> list[tuple[str, str]]:
        headers = {"Authorization": f"Bearer {token_of(member)}", "Accept": "text/event-stream"}
        found, id = [], ""
        async with wire.client.stream(
            "GET", "/v1/apps/blog/logs", headers=headers | ({"Last-Event-ID": last_id} if last_id else {})
        ) as got:
            async for text in got.aiter_lines():
                if text.startswith("id: "):
                    id = text.removeprefix("id: ")
                if text.startswith("data: "):
                    found.append((id, json.loads(text.removeprefix("data: "))["text"]))
                    if len(found) == count:
                        break
        return found

    async with Wire(world.api) as wire:
        whole = await read(wire, "", 14)
        assert len({text for _, text in whole}) == 14
        for cut in (0, 1, 2, 4, 7, 11):
            rest = [text for _, text in await read(wire, whole[cut][0], 13 - cut)]
            assert sorted(rest) == sorted(text for _, text in whole[cut + 1 :])
            for name in ("one", "two"):
                mine = [text for text in rest if text.startswith(name)]
                assert mine == sorted(mine), "an instance's lines are in its own order"


@pytest.mark.parametrize(("tail", "asked"), [(0, (0, None)), (1, (None, 5.0)), (2, (None, 5.0))])
async def test_the_first_words_of_one_that_was_silent_are_read(world: World, member, app, tail, asked):
    """They may come between what was printed and what is printed: it is asked for all since the last line of any."""
    node = next(iter(world.agents.connected))
    talker, silent = await add_instance(world, node), await add_instance(world, node)
    followed: dict[str, LogsRequest] = {}
    both = asyncio.Event()

    def answer(stream: FakeStream) -> None:
        if not stream.request.follow:
            stream.say(line(talker, 4.0, "old", place="1.1"), line(talker, 5.0, "newer", place="1.2"), StreamEnd())
            return
        followed[stream.request.instances[0]] = stream.request
        if len(followed) == 2:
            both.set()

    world.agents.on_open = answer
    async with Wire(world.api) as wire:
        headers = {"Authorization": f"Bearer {token_of(member)}", "Accept": "text/event-stream"}
        async with wire.client.stream("GET", f"/v1/apps/blog/logs?tail={tail}", headers=headers):
            await asyncio.wait_for(both.wait(), 10)
    assert (followed[silent].tail, followed[silent].since) == asked


async def test_a_websocket_follows_too_and_is_refused_with_a_problem(world: World, member, app):
    node = next(iter(world.agents.connected))
    instance = await add_instance(world, node)
    world.agents.on_open = lambda stream: stream.say(line(instance, 1.0, "hello"))  # a node whose clock is behind
    async with Wire(world.api) as wire:
        url = wire.url.replace("http", "ws") + "/v1/apps/blog/logs/stream?tail=0"
        async with websockets.connect(
            url, subprotocols=[websockets.Subprotocol(f"shellwego.bearer.{token_of(member)}")]
        ) as socket:
            assert json.loads(await asyncio.wait_for(socket.recv(), 10))["text"] == "hello"
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(url)
        assert refused.value.response.status_code == 401
        assert json.loads(bytes(refused.value.response.body or b""))["code"] == "unauthenticated"
