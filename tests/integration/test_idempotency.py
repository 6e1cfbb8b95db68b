"""What is sent twice happens once."""

from __future__ import annotations

import asyncio

from tests.integration.conftest import World
from tests.integration.test_problems import problem


async def test_the_same_request_gets_the_same_answer(world: World, member):
    headers = {"Idempotency-Key": "key-1"}
    first = await member.post("/v1/apps", json={"name": "blog"}, headers=headers)
    second = await member.post("/v1/apps", json={"name": "blog"}, headers=headers)
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json() == second.json()
    assert second.headers["idempotency-replayed"] == "true"
    made = [await member.post("/v1/apps/blog/deployments", json={"image": "x"}, headers=headers) for _ in range(2)]
    problem(made[0], 422, "idempotency_mismatch")


async def test_the_same_key_with_another_body_is_refused(member):
    headers = {"Idempotency-Key": "key-1"}
    assert (await member.post("/v1/apps", json={"name": "a"}, headers=headers)).status_code == 201
    problem(await member.post("/v1/apps", json={"name": "b"}, headers=headers), 422, "idempotency_mismatch")


async def test_twins_sent_at_once_have_one_effect(world: World, member):
    """A client that gives up waiting and asks again, while the first request is still being worked on."""
    await member.post("/v1/apps", json={"name": "blog"})
    answers = await asyncio.gather(
        *(
            member.post("/v1/apps/blog/deployments", json={"image": "x"}, headers={"Idempotency-Key": "one"})
            for _ in range(20)
        )
    )
    assert {a.status_code for a in answers} == {202}
    assert len({a.json()["id"] for a in answers}) == 1
    assert len((await member.get("/v1/apps/blog/deployments")).json()["items"]) == 1


async def test_a_refusal_is_not_kept(member):
    """What was mended meanwhile goes through with the same key."""
    headers = {"Idempotency-Key": "key"}
    problem(await member.post("/v1/apps/blog/deployments", json={"image": "x"}, headers=headers), 404, "not_found")
    await member.post("/v1/apps", json={"name": "blog"})
    assert (await member.post("/v1/apps/blog/deployments", json={"image": "x"}, headers=headers)).status_code == 202


async def test_keys_of_other_users_are_other_keys(world: World, member):
    headers = {"Idempotency-Key": "key"}
    async with world.client(await world.new_user("other")) as other:
        assert (await member.post("/v1/apps", json={"name": "a"}, headers=headers)).status_code == 201
        assert (await other.post("/v1/apps", json={"name": "b"}, headers=headers)).status_code == 201


async def test_a_uploaded_source_is_recognised_by_its_content(world: World, member):
    await member.post("/v1/apps", json={"name": "blog"})
    headers = {"Idempotency-Key": "up", "Content-Type": "application/gzip"}
    packed = b"\x1f\x8b" + b"x" * 100
    first = await member.post("/v1/apps/blog/sources", content=packed, headers=headers)
    second = await member.post("/v1/apps/blog/sources", content=packed, headers=headers)
    assert first.json() == second.json()
    assert len(list(world.parts.settings.sources.iterdir())) == 1
    other = await member.post("/v1/apps/blog/sources", content=packed + b"y", headers=headers)
    problem(other, 422, "idempotency_mismatch")
    assert len(list(world.parts.settings.sources.iterdir())) == 1
