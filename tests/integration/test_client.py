"""Our own client against our own API: the two halves of one contract, with every answer held against its document."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.integration.conftest import World
from tests.openapi import Checked

from shellwego.client import Cloud, LoginStore, Refused, SessionCredential, SessionLost, TokenCredential
from shellwego.client.credentials import StoredLogin, from_session
from shellwego.client.logs import LogQuery
from shellwego.client.sources import list_source
from shellwego.client.transport import Transport
from shellwego.core.deployments import DeploymentState
from shellwego.protocol.public import DeploymentCreate, TokenCreate, UserCreate

URL = "http://api.test"
PASSWORD = "correct horse battery"


def cloud_of(world: World, token: str | None) -> Cloud:
    return Cloud(Transport(URL, TokenCredential(token), http=Checked.around(world.api), patience_seconds=0))


async def test_a_persons_day(world: World, tmp_path: Path) -> None:
    """Everything a user does before there is a node: each call is understood, each answer too."""
    operator = cloud_of(world, world.first.token)
    assert (await operator.auth.me()).operator
    await operator.organisations.create("acme", idempotency_key="o")
    body = UserCreate(email="ann@acme.test", password=PASSWORD, organisation="acme")
    await operator.users.create(body, idempotency_key="u")
    assert "acme" in [o.name async for o in operator.organisations.list()]
    assert "ann@acme.test" in [u.email async for u in operator.users.list()]
    assert (await operator.status.get()).domain == "cloud.test"
    assert [n async for n in operator.nodes.list()] == []
    await operator.images.map("python:3*", "base/python")
    assert [m.pattern async for m in operator.images.mappings()] == ["python:3*"]
    await operator.images.unmap("python:3*")

    session = await cloud_of(world, None).auth.login("ann@acme.test", PASSWORD)
    ann = cloud_of(world, session.access_token)
    made = await ann.tokens.create(TokenCreate(name="ci", expires_in_days=1))
    assert (await cloud_of(world, made.secret).auth.me()).token == made.id
    assert [t.name async for t in ann.tokens.list()] == ["ci"]
    await ann.tokens.revoke(made.id)
    with pytest.raises(Refused) as refused:
        await cloud_of(world, made.secret).auth.me()
    assert refused.value.code == "unauthenticated"

    app = await ann.apps.create("shop", idempotency_key="a")
    assert (await ann.apps.create("shop", idempotency_key="a")).id == app.id
    assert await ann.apps.find("nothing") is None
    assert (await ann.apps.scale("shop", {"web": 2})).processes["web"].desired == 2
    await ann.configs.change("shop", {"A": "1", "B": None}, idempotency_key="c")
    assert (await ann.configs.get("shop")).values == {"A": "1"}
    assert [r async for r in ann.releases.list("shop")] == []
    assert [i async for i in ann.instances.list("shop")] == []
    assert [e async for e in ann.logs.read("shop", LogQuery(tail=5))] == []

    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("hello")
    listing = list_source(tmp_path / "site")
    source = await ann.sources.upload("shop", listing, idempotency_key="s")
    assert (await ann.sources.upload("shop", listing, idempotency_key="s")).id == source.id
    wish = DeploymentCreate(source=source.id)
    deployment = await ann.deployments.create("shop", wish, idempotency_key="d")
    assert (await ann.deployments.create("shop", wish, idempotency_key="d")).id == deployment.id
    assert (await ann.deployments.cancel("shop", deployment.id)).state is DeploymentState.CANCELLED
    events = [event async for event in ann.deployments.follow("shop", deployment.id)]
    assert (events[0].kind, events[-1].kind) == ("state", "finished")
    assert events[-1].deployment is not None
    assert events[-1].deployment.state is DeploymentState.CANCELLED
    assert [d.id async for d in ann.deployments.list("shop")] == [deployment.id]
    with pytest.raises(Refused) as refused:
        await ann.deployments.create("shop", DeploymentCreate(release="v9"), idempotency_key="r")
    assert refused.value.code in {"not_found", "invalid_field"}
    for act in (ann.apps.stop, ann.apps.start, ann.apps.delete):
        await act("shop")


async def test_two_command_lines_share_a_session_that_is_over(world: World, tmp_path: Path) -> None:
    """The cloud ends a session whose refresh token comes twice; ours comes once."""
    operator = cloud_of(world, world.first.token)
    await operator.organisations.create("acme")
    await operator.users.create(UserCreate(email="ann@acme.test", password=PASSWORD, organisation="acme"))
    session = await cloud_of(world, None).auth.login("ann@acme.test", PASSWORD)
    store = LoginStore(tmp_path / "logins.json")
    async with store.locked():
        store.save(from_session(StoredLogin(URL, "ann"), session, world.now), make_current=True)
    world.now.forward(minutes=16)
    clouds = [
        Cloud(Transport(URL, SessionCredential(LoginStore(store.path), URL, clock=world.now),
                        http=Checked.around(world.api), patience_seconds=0))
        for _ in range(4)
    ]  # fmt: skip
    assert {me.email for me in await asyncio.gather(*(cloud.auth.me() for cloud in clouds))} == {"ann@acme.test"}
    login = store.current()
    assert login is not None
    await clouds[0].auth.logout(login.refresh_token)
    with pytest.raises(SessionLost):
        await clouds[0].auth.me()
