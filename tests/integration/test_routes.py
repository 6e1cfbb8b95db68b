"""From what nodes report to what edges are told to serve. Node and edge are puppets."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.integration.controllers_world import CALLER, Published, World, a_world

from shellwego.control.controllers.routes import UNSURE_SECONDS, WHOLE_LOOK_SECONDS, route_of
from shellwego.control.services import apps
from shellwego.core.errors import Unavailable
from shellwego.core.instances import InstanceGoal, InstanceState


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with a_world(tmp_path) as made:
        yield made


async def test_only_healthy_wanted_instances_are_routed_and_leaving_ones_are_named(world: World) -> None:
    await world.deploy("blog", replicas={"web": 2})
    await world.settle()
    first, second = await world.instances()
    async with world.store.reading() as work:
        app = await work.for_the_cloud().apps.get(first.app)
    leaving = dataclasses.replace(second, goal=InstanceGoal.DRAIN)
    route = route_of(app, [first, leaving], "example.org", grace_seconds=10)
    assert [s.instance for s in route.servers] == [first.id]
    assert [s.instance for s in route.draining] == [second.id]
    sick = dataclasses.replace(first, state=InstanceState.UNHEALTHY)
    assert route_of(app, [sick], "example.org", grace_seconds=10).status == "crashed"


async def test_an_app_is_not_named_to_edges_before_its_node_has_spoken(world: World) -> None:
    """After a restore, what the database calls healthy is gone, and its address is somebody else's now."""
    await world.deploy("blog", replicas={"web": 2})
    await world.settle()
    first, second = await world.instances()
    edges = Published(world.store, cloud="c")
    routes = world.routes(edges)
    world.links._on_heard = routes.heard
    world.store.on_commit(routes.notice)
    await routes.once()
    assert edges.servers == {}, "the edge goes on as before"
    await world.report((first, InstanceState.PENDING))
    await routes.once()
    await world.report((first, InstanceState.PENDING), (second, InstanceState.STARTING))
    await routes.once()
    assert edges.servers == {}, "they begin anew; until one can serve, what is served now is better"
    await world.report((first, InstanceState.HEALTHY), (second, InstanceState.STARTING))
    await routes.once()
    assert edges.servers == {"blog": [first.id]}
    await world.report((first, InstanceState.BACKOFF), (second, InstanceState.STARTING))
    await routes.once()
    assert edges.servers == {"blog": []}, "from now on the nodes are believed"


async def test_a_node_that_stays_silent_does_not_hold_an_app_back_for_ever(world: World) -> None:
    await world.deploy("blog")
    await world.settle()
    [instance] = await world.instances()
    edges = Published(world.store, cloud="c")
    routes = world.routes(edges)
    await routes.once()
    assert edges.servers == {}
    world.forward(seconds=UNSURE_SECONDS + 1)
    await routes.once()
    assert edges.servers == {"blog": [instance.id]}


async def test_an_app_that_is_new_or_fails_is_named_at_once(world: World) -> None:
    edges = Published(world.store, cloud="c")
    await world.deploy("blog")
    await world.rounds()
    [instance] = await world.instances()
    routes = world.routes(edges)
    world.links._on_heard = routes.heard
    world.store.on_commit(routes.notice)
    await routes.once()
    async with world.store.writing() as work:
        await apps.create_app(work, CALLER, "shop")
    await world.report((instance, InstanceState.BACKOFF))
    await routes.once()
    assert edges.servers == {"blog": [], "shop": []}


async def test_a_deleted_app_is_named_gone_to_the_edges(world: World) -> None:
    """What isn't named goes on being served."""
    edges = Published(world.store, cloud="c")
    routes = world.routes(edges)
    async with world.store.writing() as work:
        app = await apps.delete(work, CALLER, "blog")
    await routes.once()
    assert edges.last.gone == [app.id]
    await world.settle()
    await routes.once()
    assert edges.last.gone == [app.id]
    world.forward(days=8)
    await routes.once()
    assert edges.last.gone == []


async def test_only_what_changed_is_looked_at_and_told(world: World) -> None:
    """One change among thousands must be cheap, and a change that no event told of is found all the same."""
    await world.deploy("blog")
    await world.settle()
    async with world.store.writing() as work:
        shop = await apps.create_app(work, CALLER, "shop")
    edges = Published(world.store, cloud="c")
    routes = world.routes(edges)
    world.forward(seconds=UNSURE_SECONDS + 1)
    await routes.once()
    world.forward(seconds=UNSURE_SECONDS + 1)
    await routes.once()
    assert set(edges.servers) == {"blog", "shop"}

    world.store.on_commit(routes.notice)
    [instance] = await world.instances()
    await world.report((instance, InstanceState.BACKOFF))
    async with world.store.writing() as work:
        await work.for_the_cloud().apps.update(shop.id, stopped=True)
    await routes.once()
    assert edges.changes is not None
    assert [route.app_name for route in edges.changes.routes] == ["blog"]
    world.forward(seconds=WHOLE_LOOK_SECONDS + 1)
    await routes.once()
    assert [route.app_name for route in edges.changes.routes] == ["shop"]
    before = edges.last
    await routes.once()
    assert edges.last is before


async def test_an_app_whose_row_is_lost_is_not_told_gone(world: World) -> None:
    """Nothing goes unless it is named: the edges are told all anew, without it."""
    edges = Published(world.store, cloud="c")
    routes = world.routes(edges)
    async with world.store.writing() as work:
        await apps.create_app(work, CALLER, "shop")
    await routes.once()
    assert set(edges.servers) == {"blog", "shop"}
    async with world.store.database.transaction(write=True) as connection:
        await connection.run_sync(lambda sync: sync.exec_driver_sql("DELETE FROM apps WHERE name = 'shop'"))
    world.forward(seconds=WHOLE_LOOK_SECONDS + 1)
    await routes.once()
    assert edges.changes is None
    assert set(edges.servers) == {"blog"}
    assert edges.last.gone == []


async def test_a_look_that_failed_is_made_good_by_a_whole_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    edges = Published(world.store, cloud="c")
    routes = world.routes(edges)
    await routes.once()
    world.store.on_commit(routes.notice)
    async with world.store.writing() as work:
        await apps.create_app(work, CALLER, "shop")
    with monkeypatch.context() as broken:
        broken.setattr(routes, "_look", lambda *_: _fail())
        with pytest.raises(Unavailable):
            await routes.once()
    await routes.once()
    assert set(edges.servers) == {"blog", "shop"}


async def _fail() -> None:
    raise Unavailable("The database", "away")
