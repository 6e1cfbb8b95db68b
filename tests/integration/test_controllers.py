"""From a recorded wish to instances, and from what nodes report to the end of a deployment. The node is a puppet."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.integration.controllers_world import CALLER, NODE, Published, World, a_world

from shellwego.control.controllers.routes import WHOLE_LOOK_SECONDS
from shellwego.control.links.reports import Told
from shellwego.control.services import apps, deployments
from shellwego.control.store.records import NodeRecord
from shellwego.core.deployments import DeploymentState
from shellwego.core.errors import Forbidden
from shellwego.core.ids import AppId, NodeId
from shellwego.core.instances import InstanceGoal, InstanceState
from shellwego.protocol import public


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with a_world(tmp_path) as made:
        yield made


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


async def test_what_changed_since_the_last_report_is_written_and_only_for_its_own_node(world: World) -> None:
    """Most of a report says again what is written; what does not is looked at as carefully as a first report."""
    await world.deploy("blog", replicas={"web": 2})
    await world.settle()
    one, other = await world.instances()
    well = [(one, InstanceState.HEALTHY), (other, InstanceState.HEALTHY)]
    told, told_by_a_stranger = Told(), Told()
    stranger = NodeId("nod_bbbbbbbbbbbbbbbbbbbb")
    async with world.store.writing() as work:
        await work.nodes.ensure(NodeRecord(stranger, "stranger", work.now, last_seen_at=work.now))
    await world.report_again(NODE, told, *well)
    await world.report_again(stranger, told_by_a_stranger, *well)
    await world.report_again(stranger, told_by_a_stranger, (one, InstanceState.BACKOFF), well[1])
    assert {i.state for i in await world.instances()} == {InstanceState.HEALTHY}
    await world.report_again(NODE, told, well[0], (other, InstanceState.BACKOFF), reason="exit code 1")
    states = {i.id: (i.state, i.reason) for i in await world.instances()}
    assert states == {one.id: (InstanceState.HEALTHY, "exit code 1"), other.id: (InstanceState.BACKOFF, "exit code 1")}


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
