"""Watching a deployment: everything, in order, once, however often the line breaks."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest
from tests.integration.conftest import World
from tests.integration.test_deployments import deploy, release, succeed
from tests.integration.test_problems import problem
from tests.integration.wire import Wire

from shellwego.control.services import deployments as service
from shellwego.core.deployments import DeploymentState


@pytest.fixture
async def wire(world: World):
    """Streams need a real connection: httpx's in-process transport gives an answer only when it is whole."""
    async with Wire(world.api) as wire:
        yield wire


def parsed(text: str) -> list[dict]:
    events = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if line and not line.startswith(":"))
        if fields:
            events.append({"id": fields["id"], **json.loads(fields["data"])})
            assert fields["event"] == events[-1]["kind"]
    return events


async def watch(wire: Wire, token: str, deployment: str, last_id: str = "", until: int | None = None) -> list[dict]:
    headers = {"Authorization": f"Bearer {token}"} | ({"Last-Event-ID": last_id} if last_id else {})
    text = ""
    async with wire.client.stream("GET", f"/v1/apps/blog/deployments/{deployment}/events", headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        async for piece in answer.aiter_text():
            text += piece
            if until is not None and len(parsed(text.rpartition("\n\n")[0])) >= until:
                break
    return parsed(text)


def token_of(client: httpx.AsyncClient) -> str:
    return client.headers["authorization"].removeprefix("Bearer ")


async def begin(world: World, id: str, state: DeploymentState) -> None:
    async with world.store.writing() as work:
        await service.begin(work, await work.for_the_cloud().deployments.get(id), state)


async def test_all_is_told_in_order_and_the_last_word_is_the_deployment(world: World, member, wire):
    await member.post("/v1/apps", json={"name": "blog"})
    id = (await deploy(member, image="x"))["id"]
    await begin(world, id, DeploymentState.BUILDING)
    log = world.parts.settings.builds / f"{id}.log"
    log.parent.mkdir(parents=True)
    log.write_text("step 1\nstep 2\r\n\nhalf")
    await release(world, id)
    await succeed(world, id)
    events = await watch(wire, token_of(member), id)
    told = [(e["kind"], e["text"]) for e in events]
    assert told == [
        ("state", "queued"),
        ("state", "building"),
        ("build_log", "step 1\nstep 2\n"),
        ("build_log", "half"),
        ("state", "rolling"),
        ("state", "succeeded"),
        ("finished", "succeeded"),
    ]
    assert events[-1]["deployment"]["release"] == "v1"
    for cut in range(len(events) - 1):
        rest = await watch(wire, token_of(member), id, last_id=events[cut]["id"])
        assert rest == events[cut + 1 :], f"after {events[cut]}"


def lines_of(events: list[dict]) -> list[str]:
    return [line for event in events if event["kind"] == "build_log" for line in event["text"].split("\n")]


async def test_a_chatty_build_is_told_in_large_pieces(world: World, member, wire):
    """Reading a build's output must not take longer than making it, and loses no line, wherever it is taken up."""
    await member.post("/v1/apps", json={"name": "blog"})
    id = (await deploy(member, image="x"))["id"]
    await begin(world, id, DeploymentState.BUILDING)
    log = world.parts.settings.builds / f"{id}.log"
    log.parent.mkdir(parents=True)
    lines = [f"line {number} " + "ü" * (number % 80) for number in range(20_000)]
    log.write_text("\n".join(lines) + "\n")
    await release(world, id)
    await succeed(world, id)
    events = await watch(wire, token_of(member), id)
    pieces = [event for event in events if event["kind"] == "build_log"]
    assert lines_of(events) == lines
    assert len(pieces) <= log.stat().st_size // 60_000 + 2
    for piece in pieces[::7]:
        rest = await watch(wire, token_of(member), id, last_id=piece["id"])
        assert lines_of(rest) == lines_of(events[events.index(piece) + 1 :])


async def test_what_happens_is_told_as_it_happens(world: World, member, wire):
    await member.post("/v1/apps", json={"name": "blog"})
    id = (await deploy(member, image="x"))["id"]
    log = world.parts.settings.builds / f"{id}.log"
    log.parent.mkdir(parents=True)
    headers = {"Authorization": f"Bearer {token_of(member)}"}
    text = ""
    async with (
        asyncio.timeout(30),
        wire.client.stream("GET", f"/v1/apps/blog/deployments/{id}/events", headers=headers) as answer,
    ):
        pieces = answer.aiter_text()
        await begin(world, id, DeploymentState.BUILDING)
        with log.open("a") as file:
            for number in range(3):
                file.write(f"line {number}\n")
                file.flush()
                while f"line {number}" not in text:
                    text += await anext(pieces)
        async with world.store.writing() as work:
            record = await work.for_the_cloud().deployments.get(id)
            await service.fail(work, record, reason="no", code="build_failed")
        async for piece in pieces:
            text += piece
    events = parsed(text)
    assert lines_of(events) == ["line 0", "line 1", "line 2"]
    assert events[-1]["kind"] == "finished"
    assert events[-1]["deployment"]["state"] == "failed"
    assert events[-2]["text"] == "failed: no"


async def test_a_quiet_stream_is_kept_alive_and_ends_with_its_credential(world: World, member, wire):
    """A revoked token sees nothing more, although its connection was open."""
    await member.post("/v1/apps", json={"name": "blog"})
    id = (await deploy(member, image="x"))["id"]
    made = (await member.post("/v1/tokens", json={"name": "x"})).json()
    headers = {"Authorization": f"Bearer {made['secret']}"}
    text = ""
    async with wire.client.stream("GET", f"/v1/apps/blog/deployments/{id}/events", headers=headers) as answer:
        async for piece in answer.aiter_text():
            text += piece
            if text.count(": still here") == 2:
                await member.delete(f"/v1/tokens/{made['id']}")
    assert text.count(": still here") >= 2


async def test_a_stopping_server_ends_its_streams(world: World, member, wire):
    await member.post("/v1/apps", json={"name": "blog"})
    id = (await deploy(member, image="x"))["id"]
    watching = asyncio.ensure_future(watch(wire, token_of(member), id))
    world.parts.stopping.set()
    events = await asyncio.wait_for(watching, 10)
    assert not any(e["kind"] == "finished" for e in events)


async def test_an_odd_id_to_go_on_from_is_refused(member):
    await member.post("/v1/apps", json={"name": "blog"})
    id = (await deploy(member, image="x"))["id"]
    for odd in ("x", "1", "1-2-3", "-1-1", "9" * 40 + "-1"):
        answer = await member.get(f"/v1/apps/blog/deployments/{id}/events", headers={"Last-Event-ID": odd})
        problem(answer, 422, "invalid_field")
