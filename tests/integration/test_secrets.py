"""What people trust us with is in no answer, no row and no log, except where they ask for it by name."""

from __future__ import annotations

import base64

import sqlalchemy as sa
from tests.integration.agents import FakeStream
from tests.integration.conftest import World
from tests.integration.test_deployments import config, release, run, succeed
from tests.integration.test_logs import add_instance

from shellwego.control.store import tables
from shellwego.protocol.messages import StreamEnd

CANARY = "canary-9f3b1c7e"


def rows_of(connection: sa.Connection) -> list[tuple[object, ...]]:
    return [tuple(row) for table in tables.metadata.sorted_tables for row in connection.execute(sa.select(table))]


async def everything_stored(world: World) -> str:
    async with world.store.reading() as work:
        return repr(await work._connection.run_sync(rows_of))


async def test_a_canary_goes_through_every_operation_and_is_found_nowhere(world: World, admin, member, capsys):
    answers: list[str] = []

    async def ask(client, method: str, path: str, body: object, status: int) -> dict:
        answer = await client.request(method, path, json=body, headers={"Idempotency-Key": f"k{len(answers)}"})
        assert answer.status_code == status, answer.text
        answers.append(answer.text)
        return answer.json()

    secret = {"API_KEY": CANARY, "DATABASE_URL": f"postgres://app:{CANARY}@db/x"}
    login, build = {"username": "me", "password": CANARY}, {"args": secret, "secrets": secret}
    deployments = "/v1/apps/blog/deployments"
    await ask(member, "POST", "/v1/apps", {"name": "blog"}, 201)
    made = await ask(member, "POST", deployments, {"image": "x", "config": secret, "registry_login": login}, 202)
    await release(world, made["id"])
    await succeed(world, made["id"])
    packed = {"content": b"\x1f\x8bxx", "headers": {"Content-Type": "application/gzip"}}
    source = (await member.post("/v1/apps/blog/sources", **packed)).json()["id"]
    built = await ask(member, "POST", deployments, {"source": source, "build": build}, 202)
    await ask(member, "POST", f"{deployments}/{built['id']}/cancel", None, 200)

    # Whatever is wrong with it, a refusal names the field and doesn't repeat the value.
    await ask(member, "PATCH", "/v1/apps/blog/config", {"values": {"1X": CANARY}}, 422)
    await ask(member, "PATCH", "/v1/apps/blog/config", {"values": {"PORT": CANARY}}, 422)
    await ask(member, "PATCH", "/v1/apps/blog/config", {"values": {"X": [CANARY]}}, 422)
    await ask(member, "PATCH", "/v1/apps/blog/config", {"values": {"X": CANARY * 9000}}, 422)
    await ask(member, "POST", deployments, {"image": "x", "registry_login": {**login, "more": CANARY}}, 422)
    await ask(member, "POST", deployments, {"registry_login": login}, 422)

    person = {"email": "a@b.test", "password": CANARY, "organisation": "acme"}
    await ask(admin, "POST", "/v1/users", person, 201)
    await ask(admin, "POST", "/v1/users", {**person, "password": [CANARY]}, 422)
    await ask(admin, "POST", "/v1/auth/login", {"email": "a@b.test", "password": CANARY}, 200)
    await ask(admin, "POST", "/v1/auth/login", {"email": "b@b.test", "password": CANARY}, 401)
    await ask(admin, "POST", "/v1/auth/refresh", {"refresh_token": CANARY}, 401)

    pages = ("/v1/apps", "/v1/apps/blog/releases", deployments, "/v1/instances", "/v1/status")
    answers += [(await client.get(page)).text for client in (admin, member) for page in pages]
    said = capsys.readouterr()
    assert (await config(member))["values"] == secret, "the canary is alive where it belongs"
    found_in = {
        "answers": repr(answers),
        "the database": await everything_stored(world),
        "our log": said.out + said.err,
    }
    for form in (CANARY, base64.b64encode(CANARY.encode()).decode()[:-4]):
        assert [place for place, text in found_in.items() if form in text] == []


async def test_a_node_is_told_what_the_lines_of_each_release_may_not_show(world: World, member):
    """Of the release that an instance runs: after a change its last lines still hold the old value."""
    await member.post("/v1/apps", json={"name": "blog"})
    node = next(iter(world.agents.connected))
    await run(world, member, image="x", config={"API_KEY": "first-value", "MODE": "production"})
    first = await add_instance(world, node)
    await run(world, member, config={"API_KEY": "second-value"})
    second = await add_instance(world, node)
    world.agents.on_open = lambda stream: stream.say(StreamEnd())
    assert (await member.get("/v1/apps/blog/logs")).status_code == 200
    (stream,) = world.agents.streams
    assert isinstance(stream, FakeStream)
    assert stream.request.secrets == {first: {"API_KEY": "first-value"}, second: {"API_KEY": "second-value"}}
