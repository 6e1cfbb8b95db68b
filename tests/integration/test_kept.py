"""An answer that is kept is never stale: whoever committed whatever, the next reader sees it."""

from __future__ import annotations

import itertools
from typing import Any

import httpx
import pytest
from tests.integration.conftest import World
from tests.integration.test_deployments import release, succeed
from tests.integration.test_problems import problem

from shellwego.control.services import tokens
from shellwego.control.services.callers import Caller
from shellwego.control.store import Store
from shellwego.control.store.records import OrganisationRecord
from shellwego.core.ids import OrganisationId, UserId

PATHS = ("/v1/apps", "/v1/apps/blog")
_numbers = itertools.count()


async def make_one(writer: Store) -> None:
    async with writer.writing() as work:
        id = OrganisationId(work.new_id("organisation"))
        await work.organisations.add(OrganisationRecord(id, f"o{next(_numbers)}", work.now))


async def test_whoever_commits_gives_the_database_another_version(store: Store, database_url: str):
    other = Store(database_url)
    seen = [await store.version()]
    for writer in (store, other, other, store):
        async with writer.writing() as work:
            id = OrganisationId(work.new_id("organisation"))
            await work.organisations.add(OrganisationRecord(id, f"o{next(_numbers)}", work.now))
            seen.append(await store.version())
        assert await store.version() not in seen
        seen.append(await store.version())
    async with store.reading() as work:
        await work.organisations.page(limit=5)
    assert await store.version() == seen[-1]
    assert await other.version() == await other.version()
    await other.close()


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_commits_that_overlap_are_told_apart(store: Store, database_url: str):
    """Numbers of transactions are given at their begin: an older one that ends last must be seen too."""
    other = Store(database_url)
    async with store.writing() as older:
        await older.organisations.add(OrganisationRecord(OrganisationId("organisation_a"), "a", older.now))
        seen = [await store.version()]
        await make_one(other)
        assert await store.version() not in seen
        seen.append(await store.version())
    assert await store.version() not in seen
    await other.close()


async def test_a_version_is_of_one_connection(store: Store):
    """SQLite counts for each connection; a new one must not be believed to go on where an old one was."""
    if not store.database.is_sqlite:
        return
    before = await store.version()
    store.database._watch.close()
    assert await store.version() != before


async def test_no_operation_leaves_a_stale_answer(world: World, member: httpx.AsyncClient):
    """Every operation of the document that may write; a new one has to be tried here too."""
    await member.post("/v1/apps", json={"name": "blog"})
    tried: dict[str, bool] = {}

    async def attempt(id: str, method: str, path: str, body: Any = None, **more: Any) -> Any:
        before = [await kept(member, path) for path in PATHS]
        assert world.api.state.kept._bodies, "nothing is kept, so this test shows nothing"
        answer = await member.request(method, path, json=body, **more)
        assert answer.status_code < 500
        assert answer.status_code not in {401, 405, 415, 422}, answer.text
        after = [await kept(member, path) for path in PATHS]
        assert after == [await made_anew(member, path) for path in PATHS], f"{id} left a stale answer"
        tried[id] = before != after
        return answer.json() if answer.content else None

    await attempt("createApp", "POST", "/v1/apps", {"name": "second"})
    await attempt("changeConfig", "PATCH", "/v1/apps/blog/config", {"values": {"A": "1"}})
    made = await attempt("createDeployment", "POST", "/v1/apps/blog/deployments", {"image": "x"})
    await release(world, made["id"])
    await succeed(world, made["id"])
    await attempt("updateApp", "PATCH", "/v1/apps/blog", {"replicas": {"web": 3}})
    await attempt("stopApp", "POST", "/v1/apps/blog/stop")
    await attempt("startApp", "POST", "/v1/apps/blog/start")
    restarted = await attempt("restartApp", "POST", "/v1/apps/blog/restart")
    await attempt("cancelDeployment", "POST", f"/v1/apps/blog/deployments/{restarted['deployment']}/cancel")
    gzip = {"content": b"\x1f\x8bxx", "headers": {"Content-Type": "application/gzip"}}
    await attempt("uploadSource", "POST", "/v1/apps/blog/sources", **gzip)
    token = await attempt("createToken", "POST", "/v1/tokens", {"name": "x"})
    await attempt("revokeToken", "DELETE", f"/v1/tokens/{token['id']}")
    await attempt("createOrganisation", "POST", "/v1/organisations", {"name": "third"})
    person = {"email": "a@b.test", "password": "0123456789abcdef", "organisation": "third"}
    await attempt("createUser", "POST", "/v1/users", person)
    await attempt("putImageMapping", "PUT", "/v1/images/mappings", {"pattern": "python:*", "image": "base/python"})
    await attempt("deleteImageMapping", "DELETE", "/v1/images/mappings?pattern=python:*")
    session = {"refresh_token": "swr_" + "0" * 64}
    await attempt("logout", "POST", "/v1/auth/logout", session)
    await attempt("deleteApp", "DELETE", "/v1/apps/blog")

    writing = {
        operation["operationId"]
        for operations in world.api.openapi()["paths"].values()
        for method, operation in operations.items()
        if method != "get"
    }
    assert set(tried) == writing - {"login", "refresh"}  # Those need a password; they write sessions only.
    unseen = {"uploadSource", "createToken", "revokeToken", "createOrganisation", "createUser", "logout"}
    unseen |= {"putImageMapping", "deleteImageMapping"}
    assert {id for id, changed in tried.items() if not changed} == unseen


async def test_what_another_server_writes_is_seen_at_once(world: World, member: httpx.AsyncClient):
    await member.post("/v1/apps", json={"name": "blog"})
    app = await kept(member, "/v1/apps/blog")
    other = Store(world.url)
    async with other.writing() as work:
        await work.for_the_cloud().apps.update(app["id"], stopped=True)
    assert (await kept(member, "/v1/apps/blog"))["status"] == "stopped"
    await other.close()


async def test_kept_answers_open_to_nobody_else(world: World, member: httpx.AsyncClient):
    await member.post("/v1/apps", json={"name": "blog"})
    for path in PATHS:
        await kept(member, path)
    async with world.client(await world.new_user("other")) as stranger:
        await stranger.get("/v1/apps")
        assert (await kept(stranger, "/v1/apps"))["items"] == []
        problem(await stranger.get("/v1/apps/blog"), 404, "not_found")
    async with world.client() as nobody:
        problem(await nobody.get("/v1/apps"), 401, "unauthenticated")


async def test_a_credential_dies_at_once_whatever_is_kept(world: World, member: httpx.AsyncClient):
    """Revoked, also by another server; or expired, while nothing at all was written."""
    revoked, expiring = [
        (await member.post("/v1/tokens", json={"name": name, "expires_in_days": 1})).json() for name in "ab"
    ]
    other = Store(world.url)
    async with world.client(revoked["secret"]) as client:
        for _ in range(2):
            assert (await client.get("/v1/apps")).status_code == 200
        async with other.writing() as work:
            token = await work.for_the_cloud().tokens.get(revoked["id"])
            holder = Caller(UserId(token.user), "x", OrganisationId(token.organisation), "x")
            await tokens.revoke(work, holder, token.id)
        problem(await client.get("/v1/apps"), 401, "unauthenticated")
    await other.close()
    async with world.client(expiring["secret"]) as client:
        world.now.forward(seconds=86400 - 30)
        for _ in range(2):
            assert (await client.get("/v1/apps")).status_code == 200
        world.now.forward(seconds=31)
        problem(await client.get("/v1/apps"), 401, "unauthenticated")


async def test_an_access_token_ends_with_its_quarter_of_an_hour_whatever_is_kept(world: World):
    async with world.client() as client:
        login = {"email": world.first.email, "password": world.first.password}
        session = (await client.post("/v1/auth/login", json=login)).json()
        bearer = {"Authorization": f"Bearer {session['access_token']}"}
        for _ in range(2):
            assert (await client.get("/v1/apps", headers=bearer)).status_code == 200
        world.now.forward(seconds=15 * 60 + 1)
        problem(await client.get("/v1/apps", headers=bearer), 401, "unauthenticated")


async def test_a_token_in_use_shows_that_it_is(world: World, member: httpx.AsyncClient):
    """`last_used_at` goes on while every answer is a kept one."""
    times = set()
    for _ in range(4):
        for _ in range(3):
            await member.get("/v1/apps")
        async with world.store.reading() as work:
            times |= {
                token.last_used_at for token in await work.for_the_cloud().tokens.page(user=await _me(member), limit=9)
            }
        world.now.forward(seconds=61)
    assert len(times) == 4


async def test_what_is_kept_has_a_limit(world: World, member: httpx.AsyncClient):
    kept_answers = world.api.state.kept
    kept_answers._maximum_bytes = 200
    for number in range(20):
        await member.get(f"/v1/apps?name=a{number}")
        assert sum(len(body) for _, body in kept_answers._bodies.values()) == kept_answers._bytes <= 200
    assert kept_answers._bodies


async def kept(client: httpx.AsyncClient, path: str) -> Any:
    """As a client sees it: from the second time on, without a change, what is kept."""
    await client.get(path)
    return (await client.get(path)).json()


async def made_anew(client: httpx.AsyncClient, path: str) -> Any:
    """An address that was never asked for is never kept."""
    return (await client.get(f"{path}?fresh={next(_numbers)}")).json()


async def _me(client: httpx.AsyncClient) -> UserId:
    return UserId((await client.get("/v1/auth/me")).json()["user"])
