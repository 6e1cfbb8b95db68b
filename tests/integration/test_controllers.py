"""From a recorded wish to instances, and from what nodes report to the end of a deployment. The node is a puppet."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import time
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import pytest

from shellwego.control.controllers.assignments import AssignmentsController
from shellwego.control.controllers.deployments import DeploymentsController
from shellwego.control.controllers.routes import UNSURE_SECONDS, WHOLE_LOOK_SECONDS, RoutesController, route_of
from shellwego.control.links.agents import AgentLinks
from shellwego.control.links.edges import EdgeLinks
from shellwego.control.links.streams import Streams
from shellwego.control.services import apps, deployments
from shellwego.control.services.callers import Caller
from shellwego.control.services.shapes import Found
from shellwego.control.store import Store, migrate
from shellwego.control.store.engine import sqlite_url
from shellwego.control.store.records import (
    DeploymentRecord,
    InstanceRecord,
    NodeRecord,
    OrganisationRecord,
)
from shellwego.core.deployments import DeploymentState
from shellwego.core.errors import Forbidden, Unavailable
from shellwego.core.ids import AppId, NodeId, OrganisationId, UserId
from shellwego.core.instances import InstanceGoal, InstanceState
from shellwego.drivers.kms.fake import FakeKms
from shellwego.kit.clock import utc_now
from shellwego.protocol import public
from shellwego.protocol.messages import (
    Assignment,
    Heartbeat,
    InstanceReport,
    NodeCapacity,
    Report,
    Routes,
    RoutesChanged,
)

NODE = NodeId("nod_aaaaaaaaaaaaaaaaaaaa")
ORGANISATION = OrganisationId("org_aaaaaaaaaaaaaaaaaaaa")
CALLER = Caller(UserId("usr_aaaaaaaaaaaaaaaaaaaa"), "a@b.example", ORGANISATION, "default", operator=True)
IMAGE = "sha256:" + "a" * 64


class World:
    """A control plane without API, agents or edges; the test plays those."""

    def __init__(self, store: Store, ahead: list[dt.timedelta]) -> None:
        self.store, self.kms, self._ahead, self._passed = store, FakeKms(), ahead, 0.0
        self.controller = self.controller_of_a_new_server()
        self.links = AgentLinks(store, Streams(new_stream_id=lambda: "s"), cloud="c", on_connect=lambda _: None)
        self.generation = 0

    async def deploy(self, app: str, image: str = IMAGE, **body: object) -> DeploymentRecord:
        """As the API and the builds controller would."""
        async with self.store.writing() as work:
            wish = public.DeploymentCreate(image="registry.example/x:1", **body)  # type: ignore[arg-type]
            deployment = await deployments.create(work, self.kms, CALLER, app, wish)
        async with self.store.writing() as work:
            await deployments.begin(work, deployment, DeploymentState.RESOLVING)
        async with self.store.writing() as work:
            await deployments.start_release(work, self.kms, deployment, image, Found())
        return deployment

    async def rounds(self, count: int = 1) -> None:
        for _ in range(count):
            await self.controller.once()

    async def instances(self) -> list[InstanceRecord]:
        async with self.store.reading() as work:
            return await work.for_the_cloud().instances.living()

    async def report(self, *states: tuple[InstanceRecord, InstanceState], **facts: object) -> None:
        """The node says so, under a new generation."""
        self.generation += 1
        seen = [
            InstanceReport(id=i.id, state=state.value, address="100.96.0.2", port=8080, **facts)  # type: ignore[arg-type]
            for i, state in states
        ]
        await self.links._write(NODE, Report(generation=self.generation, instances=seen))

    def controller_of_a_new_server(self) -> DeploymentsController:
        controller = DeploymentsController(self.store, asyncio.Event(), monotonic=self.monotonic)
        self.store.on_commit(controller.notice)
        return controller

    def routes(self, edges: EdgeLinks) -> RoutesController:
        wake = asyncio.Event()
        return RoutesController(self.store, edges, wake, domain="example.org", epoch=2, monotonic=self.monotonic)

    def monotonic(self) -> float:
        return time.monotonic() + self._passed

    async def heartbeat(self, unfit: str = "") -> None:
        capacity = NodeCapacity(memory_mib=2048, cpu_millis=2000)
        await self.links._heard(NODE, Heartbeat(capacity=capacity, unfit=unfit))

    def forward(self, **amount: float) -> None:
        """Time passes."""
        self.set_clock(**amount)
        self._passed += dt.timedelta(**amount).total_seconds()

    def set_clock(self, **amount: float) -> None:
        """Somebody sets the clock."""
        self._ahead[0] += dt.timedelta(**amount)

    async def deployment(self, id: str) -> DeploymentRecord:
        async with self.store.reading() as work:
            return await work.for_the_cloud().deployments.get(id)

    async def settle(self) -> None:
        """A node and an edge that do as they are told, until nothing moves."""
        for _ in range(20):
            await self.rounds()
            living = await self.instances()
            moves = [
                (i, InstanceState.STOPPED if i.goal is InstanceGoal.STOP else InstanceState.HEALTHY) for i in living
            ]
            await self.report(*moves)
            async with self.store.writing() as work:
                for i in living:
                    if i.goal is InstanceGoal.DRAIN and i.drained_at is None:
                        await work.for_the_cloud().instances.update(i.id, drained_at=work.now)
                        await work.emit("instance.drained", subject=i.id, payload={"app": i.app})


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    url = sqlite_url(tmp_path / "store.db")
    await migrate(url)
    ahead = [dt.timedelta()]
    store = Store(url, clock=lambda: utc_now() + ahead[0])
    async with store.writing() as work:
        await work.organisations.add(OrganisationRecord(ORGANISATION, "default", work.now))
        node = NodeRecord(
            NODE, "n", work.now, runtimes=("gvisor",), memory_mib=2048, cpu_millis=2000,
            last_seen_at=work.now + dt.timedelta(days=1),
        )  # fmt: skip
        await work.nodes.ensure(node)
        await apps.create_app(work, CALLER, "blog")
    yield World(store, ahead)
    await store.close()


async def test_a_first_deployment_starts_and_succeeds(world: World) -> None:
    deployment = await world.deploy("blog")
    await world.rounds()
    [instance] = await world.instances()
    assert (instance.goal, instance.node) == (InstanceGoal.RUN, NODE)
    assert (await world.deployment(deployment.id)).state is DeploymentState.ROLLING
    await world.report((instance, InstanceState.HEALTHY))
    await world.rounds()
    assert (await world.deployment(deployment.id)).state is DeploymentState.SUCCEEDED


async def test_a_new_version_replaces_the_old_one_by_one(world: World) -> None:
    await world.deploy("blog", replicas={"web": 3})
    await world.settle()
    before = {i.id for i in await world.instances()}
    deployment = await world.deploy("blog", image="sha256:" + "b" * 64)
    await world.rounds(3)
    assert before <= {i.id for i in await world.instances() if i.goal is InstanceGoal.RUN}, "nobody left too early"
    await world.settle()
    after = await world.instances()
    assert len(after) == 3
    assert not before & {i.id for i in after}
    assert (await world.deployment(deployment.id)).state is DeploymentState.SUCCEEDED


async def test_what_runs_already_is_not_released_or_started_again(world: World) -> None:
    """Who deploys an unchanged folder, or a tag that didn't move, waits for no restart and finds no v2."""
    await world.deploy("blog", replicas={"web": 2}, config={"A": "1"})
    await world.settle()
    before = await world.instances()
    again = await world.deploy("blog")
    await world.rounds()
    ended = await world.deployment(again.id)
    assert ended.state is DeploymentState.SUCCEEDED
    assert ended.release == ended.previous_release == before[0].release
    assert await world.instances() == before


@pytest.mark.parametrize("other", [{"config": {"A": "2"}}, {"port": 9000}, {"image": "sha256:" + "b" * 64}])
async def test_what_differs_in_anything_is_another_release(world: World, other: dict[str, object]) -> None:
    await world.deploy("blog", config={"A": "1"})
    await world.settle()
    [old] = await world.instances()
    await world.deploy("blog", **other)
    await world.settle()
    [new] = await world.instances()
    assert new.release != old.release


async def test_deploying_again_what_does_not_run_well_starts_it_anew(world: World) -> None:
    """After a crash, or while the app is stopped, a deployment is a wish for new instances."""
    await world.deploy("blog")
    await world.settle()
    [ill] = await world.instances()
    await world.report((ill, InstanceState.UNHEALTHY))
    await world.deploy("blog")
    await world.settle()
    [fresh] = await world.instances()
    assert fresh.release != ill.release
    async with world.store.writing() as work:
        await apps.stop(work, CALLER, "blog")
    again = await world.deploy("blog")
    await world.settle()
    assert (await world.deployment(again.id)).release != fresh.release


async def test_a_release_that_keeps_ending_is_given_up_and_the_old_one_stays(world: World) -> None:
    await world.deploy("blog")
    await world.settle()
    [old] = await world.instances()
    deployment = await world.deploy("blog", image="sha256:" + "b" * 64)
    await world.rounds()
    new = next(i for i in await world.instances() if i.id != old.id)
    words = {"exit_reason": "exited", "exit_code": 3, "restarts": 3, "reason": "exited with status 3"}
    await world.report((new, InstanceState.BACKOFF), last_lines=["no database"], **words)
    await world.settle()
    failed = await world.deployment(deployment.id)
    assert failed.state is DeploymentState.FAILED
    assert "status 3" in failed.reason
    assert failed.last_lines == ("no database",)
    assert [i.id for i in await world.instances()] == [old.id]


async def test_no_room_is_said_and_waited_for(world: World) -> None:
    """What doesn't fit is neither forgotten nor forced."""
    async with world.store.writing() as work:
        await apps.create_app(work, CALLER, "shop")
    await world.deploy("shop", resources=public.ResourceAmounts(memory_mib=1024))
    await world.settle()
    deployment = await world.deploy("blog", resources=public.ResourceAmounts(memory_mib=1536))
    await world.rounds()
    assert len(await world.instances()) == 1
    assert "1536 MiB on one node; the emptiest has 1024 MiB free" in (await world.deployment(deployment.id)).step
    async with world.store.writing() as work:
        await apps.stop(work, CALLER, "shop")
    for _ in range(2):  # What is stopped goes in one sweep, and its room is found in the next.
        world.forward(seconds=16)
        await world.settle()
    assert (await world.deployment(deployment.id)).state is DeploymentState.SUCCEEDED


async def test_what_can_never_fit_is_refused_at_once(world: World) -> None:
    deployment = await world.deploy("blog", resources=public.ResourceAmounts(memory_mib=4096))
    await world.rounds()
    failed = await world.deployment(deployment.id)
    assert (failed.state, failed.code) == (DeploymentState.FAILED, "no_capacity")
    assert "the largest has 2048 MiB" in failed.reason


async def test_an_app_that_runs_out_of_memory_hears_how_much_it_had(world: World) -> None:
    deployment = await world.deploy("blog", resources=public.ResourceAmounts(memory_mib=96))
    await world.rounds()
    [instance] = await world.instances()
    words = {"exit_reason": "out_of_memory", "restarts": 3, "reason": "out of memory"}
    await world.report((instance, InstanceState.BACKOFF), **words)
    await world.rounds()
    assert "out of memory; it may use 96 MiB" in (await world.deployment(deployment.id)).reason


async def test_a_node_on_which_nothing_can_start_gets_nothing_until_it_says_that_it_is_well(world: World) -> None:
    """Its disk is read-only, say. What runs there goes on; the deployment waits, says so, and goes on by itself."""
    await world.heartbeat(unfit="The disk is read-only.")
    deployment = await world.deploy("blog")
    await world.rounds()
    assert await world.instances() == []
    assert "No node can take an instance now" in (await world.deployment(deployment.id)).step
    await world.heartbeat()
    await world.rounds()
    assert len(await world.instances()) == 1


async def test_a_restart_replaces_instances_of_the_same_release(world: World) -> None:
    await world.deploy("blog")
    await world.settle()
    [old] = await world.instances()
    async with world.store.writing() as work:
        restart = await deployments.create(work, world.kms, CALLER, "blog", public.DeploymentCreate())
    await world.settle()
    [new] = await world.instances()
    assert new.id != old.id
    assert new.release == old.release
    assert (await world.deployment(restart.id)).state is DeploymentState.SUCCEEDED


async def test_a_silent_edge_costs_an_app_neither_its_old_instances_nor_a_stopped_one_its_end(world: World) -> None:
    """The proxy outlives its edge and still sends requests to the old instances: it knows no others."""
    await world.deploy("blog")
    await world.settle()
    [old] = await world.instances()
    await world.deploy("blog", image="sha256:" + "b" * 64)
    await world.rounds()
    new = next(i for i in await world.instances() if i.id != old.id)
    await world.report((new, InstanceState.HEALTHY))
    await world.rounds()
    world.forward(minutes=10)
    await world.rounds()
    goals = {i.id: i.goal for i in await world.instances()}
    assert goals[old.id] is InstanceGoal.DRAIN

    async with world.store.writing() as work:
        await apps.stop(work, CALLER, "blog")
    await world.rounds()
    assert {i.goal for i in await world.instances()} == {InstanceGoal.STOP, InstanceGoal.DRAIN}
    world.forward(minutes=2)
    await world.rounds()
    assert {i.goal for i in await world.instances()} == {InstanceGoal.STOP}


@pytest.mark.parametrize("hours", [25, -25])
async def test_a_clock_that_is_set_neither_ends_a_deployment_nor_makes_it_wait(world: World, hours: int) -> None:
    """What goes well is not given up and who still has requests is not cut off; what doesn't go well ends in time."""
    await world.deploy("blog", replicas={"web": 2})
    await world.settle()
    deployment = await world.deploy("blog", image="sha256:" + "b" * 64)
    await world.rounds()
    fresh = next(i for i in await world.instances() if i.state is InstanceState.PENDING)
    await world.report((fresh, InstanceState.HEALTHY))
    await world.rounds()
    world.set_clock(hours=hours)
    await world.heartbeat()
    await world.rounds(2)
    assert (await world.deployment(deployment.id)).state is DeploymentState.ROLLING
    assert [i.goal for i in await world.instances()].count(InstanceGoal.DRAIN) == 1, "it has requests in its hands"
    world.forward(minutes=20)
    await world.rounds()
    assert "out of time" in (await world.deployment(deployment.id)).reason


async def test_a_server_that_starts_in_the_middle_of_a_deployment_waits_for_it_anew(world: World) -> None:
    """The machine was off for a night: nobody has tried meanwhile."""
    deployment = await world.deploy("blog")
    await world.rounds()
    world.forward(hours=10)
    await world.controller_of_a_new_server().once()
    assert (await world.deployment(deployment.id)).state is DeploymentState.ROLLING


async def test_a_clock_that_is_set_back_makes_nobody_look_away(world: World) -> None:
    """An app that no event told of is looked at in the next sweep, and not in an hour."""
    routes = world.routes(edges := Published(world.store, cloud="c"))
    await routes.once()
    await world.rounds()
    world.set_clock(hours=-1)
    async with world.store.database.transaction(write=True) as connection:
        await connection.run_sync(lambda sync: sync.exec_driver_sql("UPDATE apps SET deleting_at = created_at"))
    world.forward(seconds=WHOLE_LOOK_SECONDS + 1)
    await world.rounds()
    await routes.once()
    async with world.store.reading() as work:
        assert await work.for_the_cloud().apps.page(limit=1) == []
    assert edges.servers == {}


async def test_a_deleted_app_ends_with_its_last_instance(world: World) -> None:
    await world.deploy("blog")
    await world.settle()
    [instance] = await world.instances()
    async with world.store.writing() as work:
        await apps.delete(work, CALLER, "blog")
    await world.rounds(2)
    async with world.store.reading() as work:
        assert (await work.for_the_cloud().apps.get(instance.app)).deleting_at is not None
    await world.settle()
    async with world.store.reading() as work:
        assert await work.for_the_cloud().apps.find(AppId(instance.app)) is None


async def test_what_a_node_says_of_the_dead_changes_nothing(world: World) -> None:
    """A late report may not bring an instance back."""
    await world.deploy("blog")
    await world.settle()
    [old] = await world.instances()
    await world.deploy("blog", image="sha256:" + "b" * 64)
    await world.settle()
    await world.report((old, InstanceState.HEALTHY))
    assert old.id not in {i.id for i in await world.instances()}


async def test_a_node_that_calls_a_wanted_instance_gone_is_not_believed(world: World) -> None:
    """Only what was told to stop can be gone for good."""
    await world.deploy("blog")
    await world.settle()
    [instance] = await world.instances()
    await world.report((instance, InstanceState.STOPPED))
    assert [i.id for i in await world.instances()] == [instance.id]


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


@pytest.mark.parametrize("image", ["127.0.0.1:5000/x:1", "localhost/x", "api.localhost:80/x"])
async def test_only_operators_may_pull_from_the_servers_own_loopback(world: World, image: str) -> None:
    """Or a tenant could have the server knock on every port of the operator's machine."""
    tenant = dataclasses.replace(CALLER, operator=False)
    wish = public.DeploymentCreate(image=image)
    async with world.store.writing() as work:
        with pytest.raises(Forbidden, match="operator"):
            await deployments.create(work, world.kms, tenant, "blog", wish)
        await deployments.create(work, world.kms, CALLER, "blog", wish)


async def test_one_app_in_trouble_keeps_no_other_waiting(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world.store.writing() as work:
        cursed = (await apps.create_app(work, CALLER, "cursed")).id
    await world.deploy("blog")
    await world.deploy("cursed")
    converge = world.controller._converge

    async def stumble(app: AppId) -> None:
        if app == cursed:
            raise RuntimeError("a bug")
        await converge(app)

    monkeypatch.setattr(world.controller, "_converge", stumble)
    with pytest.raises(RuntimeError, match="a bug"):
        await world.rounds()
    [instance] = await world.instances()
    assert instance.app != cursed


async def test_old_releases_let_go_of_their_images(world: World) -> None:
    """Or an app that is deployed every day fills the disk; the current, the newest and the running ones stay."""
    digests = [f"sha256:{number:064x}" for number in range(5)]
    for digest in digests:
        await world.deploy("blog", image=digest)
        await world.settle()
    async with world.store.reading() as work:
        releases = work.for_the_cloud().releases
        assert await releases.images_to_keep(newest=2) == {digests[3], digests[4]}
        assert await releases.images() == set(digests)


class Published(EdgeLinks):
    """What edges are told. One that hears of changes only always has the same as one that is told all now."""

    def publish(self, routes: Routes, changes: RoutesChanged | None = None) -> None:
        self.changes = changes
        if changes is None:
            self.table = {route.app: route for route in routes.routes}
        else:
            assert changes.since == self.last.generation
            self.table |= {route.app: route for route in changes.routes}
            self.table = {app: route for app, route in self.table.items() if app not in changes.gone}
        self.last = routes
        assert self.table == {route.app: route for route in routes.routes}

    @property
    def servers(self) -> dict[str, list[str]]:
        return {route.app_name: [server.instance for server in route.servers] for route in self.last.routes}


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


class Assigned:
    """A connected node that takes whatever it is told."""

    def __init__(self) -> None:
        self.connected = [NODE]
        self.sent: list[Assignment] = []

    def generation_seen(self, _node: NodeId) -> int:
        return self.sent[-1].generation if self.sent else 0

    async def send(self, _node: NodeId, message: Assignment) -> None:
        self.sent.append(message)


async def test_what_a_node_runs_is_looked_at_when_it_changes_and_not_whenever_an_app_crashes(world: World) -> None:
    """A look reads all of a node's instances: a thousand that crash again and again must not earn a thousand looks."""
    agents, wake = Assigned(), asyncio.Event()
    assignments = AssignmentsController(
        world.store,
        agents,  # type: ignore[arg-type]
        wake,
        open_config=lambda _: asyncio.sleep(0, {}),
    )
    world.store.on_commit(assignments.notice)

    async def is_woken_by(step: Awaitable[object]) -> bool:
        wake.clear()
        await step
        before = len(agents.sent)
        await assignments.once()
        assert wake.is_set() or len(agents.sent) == before, "a node would have waited for the next round"
        return wake.is_set()

    await world.deploy("blog")
    assert await is_woken_by(world.rounds())
    [instance] = await world.instances()
    for _ in range(3):
        for state in (InstanceState.STARTING, InstanceState.HEALTHY, InstanceState.BACKOFF):
            assert not await is_woken_by(world.report((instance, state)))
            assert not await is_woken_by(world.rounds())
    await is_woken_by(world.report((instance, InstanceState.HEALTHY)))
    await world.deploy("blog", image="sha256:" + "b" * 64)
    for _ in range(4):
        await is_woken_by(world.settle())
    assert [spec.image for spec in agents.sent[-1].run] == ["sha256:" + "b" * 64]
    assert agents.sent[-1].absent == []
