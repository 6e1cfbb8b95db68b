"""Does the edge keep its promises on the real HAProxy, with real processes, sockets and namespaces?"""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from tests.contract.edge_world import HOST, World, until, until_true, upgrade

from shellwego.edge import apply, reconciler
from shellwego.kit.faults import declared_points

pytestmark = pytest.mark.root

# --- changes under load -------------------------------------------------------------------------------------------


async def test_a_new_version_replaces_the_old_one_without_a_failed_request(serving: World) -> None:
    """The rolling deploy of the whole product stands on this."""
    world = serving
    old = world.server.routes[0].servers
    async with world.load(HOST) as load:
        for step in range(3):
            new = [await world.start_app(f"ins_n{step}{number}") for number in range(2)]
            await world.server.serve(world.route("shop", *new, draining=tuple(old)))
            gone = {server.instance for server in old}
            await until(
                lambda gone=gone: world.server.reports and gone <= set(world.server.reports[-1].drained), "drained"
            )
            await world.server.serve(world.route("shop", *new))
            for server in old:
                await world.stop_app(server.instance)
            await world.progress(load)
            old = new
    assert load.failures == []
    assert {"ins_a", "ins_b", "ins_n00", "ins_n10", "ins_n20"} <= load.names


async def test_other_apps_come_and_go_unnoticed(serving: World) -> None:
    world = serving
    shop = world.server.routes[0]
    async with world.load(HOST) as load:
        for number in range(20):
            await world.server.serve(shop, world.route(f"other{number}", *shop.servers))
            assert (await world.get(f"other{number}.localhost")).status == 200
            await world.server.serve(shop)
            assert (await world.get(f"other{number}.localhost")).status == 404
    assert load.failures == []


async def test_a_killed_edge_is_not_noticed_and_goes_on(serving: World) -> None:
    """Apps are served while the edge is away; the next one adopts HAProxy, also with routes that changed meanwhile."""
    world = serving
    proxy = await world.proxy_pid()
    async with world.load(HOST) as load:
        await world.kill_edge()
        await world.progress(load)
        third = await world.start_app("ins_c")
        world.server.ask(world.route("shop", third))
        await world.start_edge()
        await until(lambda: "ins_c" in load.names, "the new instance serves")
    assert load.failures == []
    assert await world.proxy_pid() == proxy


async def test_an_edge_that_ends_in_order_leaves_the_proxy_serving(serving: World) -> None:
    async with serving.load(HOST) as load:
        await serving.end_edge()
        await serving.progress(load)
        await serving.start_edge()
        await serving.server.serve(*serving.server.routes)
    assert load.failures == []


async def test_a_killed_proxy_comes_back_by_itself_and_refuses_nobody(serving: World) -> None:
    """Only requests that were on it may fail; new connections wait in the kernel until it is back."""
    world = serving
    clients = 4
    async with world.load(HOST, clients=clients) as load:
        os.kill(await world.proxy_pid(), signal.SIGKILL)
        await world.progress(load)
    assert len(load.failures) <= clients
    assert not any("Refused" in failure for failure in load.failures)


async def test_a_proxy_killed_after_the_edge_was_restarted_comes_back_as_well(serving: World) -> None:
    """The restarted edge took the listening sockets back from HAProxy, or this connection would be refused."""
    world = serving
    await world.kill_edge()
    world.server.reports.clear()
    await world.start_edge()
    await until(lambda: world.server.reports, "the new edge reports")
    os.kill(await world.proxy_pid(), signal.SIGKILL)
    assert (await world.get(HOST)).status == 200
    assert len(world.proxies()) == 1


async def test_a_hung_proxy_is_replaced(serving: World) -> None:
    """A proxy that lives and does nothing is worse than a dead one."""
    world = serving
    stuck = await world.proxy_pid()
    os.kill(stuck, signal.SIGSTOP)
    state = Path(f"/proc/{stuck}/stat")
    # A signal takes a moment, in which it would accept the connection below and take it along when it is killed.
    await until(lambda: state.read_text().rpartition(")")[2].split()[0] == "T", "it hangs")
    async with asyncio.timeout(60):
        assert (await world.get(HOST)).status == 200
    await until(lambda: stuck not in world.proxies(), "the hung one is gone")


async def test_both_killed_with_the_server_away_come_back_from_disk(serving: World) -> None:
    world = serving
    await world.server.stop()
    await world.kill_edge()
    os.kill(await world.proxy_pid(), signal.SIGKILL)
    await until(lambda: world.proxies() == [], "HAProxy is gone")
    await world.start_edge()
    await until(lambda: world.proxies(), "HAProxy is back")
    assert (await world.get(HOST)).status == 200


async def test_the_data_plane_made_anew_gets_a_proxy_of_its_own(serving: World) -> None:
    """HAProxy would otherwise stay in a namespace that nobody can reach any more."""
    world = serving
    before = await world.proxy_pid()
    for command in (("netns", "delete", world.name), ("netns", "add", world.name)):
        process = await asyncio.create_subprocess_exec("ip", *command)
        assert await process.wait() == 0
    up = await asyncio.create_subprocess_exec("ip", "-n", world.name, "link", "set", "lo", "up")
    assert await up.wait() == 0
    new = await world.start_app("ins_new")
    await world.server.serve(world.route("shop", new))
    assert (await world.get(HOST)).document["name"] == "ins_new"
    assert await world.proxy_pid() != before


async def test_more_apps_than_slots_are_served_without_a_failed_request(serving: World) -> None:
    """HAProxy is replaced for it; that must not be seen."""
    world = serving
    shop = world.server.routes[0]
    async with world.load(HOST) as load:
        many = [world.route(f"many{number}", *shop.servers) for number in range(reconciler.FIRST_SLOTS + 5)]
        await world.server.serve(shop, *many)
        for number in (0, reconciler.FIRST_SLOTS + 4):
            assert (await world.get(f"many{number}.localhost")).status == 200
        await world.progress(load)
    assert load.failures == []


# --- draining -----------------------------------------------------------------------------------------------------


async def test_a_draining_server_finishes_its_request_and_gets_no_other(serving: World) -> None:
    world = serving
    a, b = world.server.routes[0].servers
    await world.server.serve(world.route("shop", a))
    slow = asyncio.ensure_future(world.get(HOST, "/slow/2"))
    await until_sessions(world, "ins_a", 1)
    await world.server.serve(world.route("shop", b, draining=(a,)))
    assert world.server.reports[-1].drained == []
    assert {str((await world.get(HOST)).document["name"]) for _ in range(10)} == {"ins_b"}
    assert (await slow).document["name"] == "ins_a"
    await until(lambda: world.server.reports[-1].drained == ["ins_a"], "reported as drained")


async def test_grace_ends_the_wait_for_a_stream_that_never_ends(serving: World) -> None:
    world = serving
    a, b = world.server.routes[0].servers
    await world.server.serve(world.route("shop", a))
    reader, writer = await upgrade(world, HOST)
    await world.server.serve(world.route("shop", b, draining=(a,), grace_seconds=1.0))
    assert world.server.reports[-1].drained == []
    await until(lambda: world.server.reports[-1].drained == ["ins_a"], "grace is over")
    writer.write(b"still here")
    assert await reader.readexactly(16) == b"ins_a:still here"
    writer.close()


async def test_a_server_that_moved_is_another_server(serving: World) -> None:
    """Nothing may be sent to an address that was given away."""
    world = serving
    moved = await world.start_app("ins_a", address="127.0.3.3")
    async with world.load(HOST) as load:
        await world.server.serve(world.route("shop", moved))
    assert load.failures == []

    async def only_the_moved_one_is_there() -> bool:
        """The others are deleted when their last connection has ended."""
        state = (await world.runtime.ask(["show servers state slot1"]))[0]
        return "127.0.3.3" in state and "ins_b" not in state and "127.0.1.11" not in state

    await until_true(only_the_moved_one_is_there)


# --- failures of apps ---------------------------------------------------------------------------------------------


async def test_an_instance_that_died_costs_no_request_while_another_lives(serving: World) -> None:
    """Until the agent has noticed, connections to the dead one fail and go to the other."""
    world = serving
    async with world.load(HOST, clients=2) as load:
        await world.stop_app("ins_a")
        await world.progress(load, 300)
    # A POST that was already sent may not be repeated, so those under way in that moment are lost.
    assert len(load.failures) <= 2
    assert not any(failure.startswith("GET") for failure in load.failures)


async def test_a_post_that_was_received_is_never_sent_again(serving: World) -> None:
    world = serving
    assert (await world.get(HOST, "/cut", method="POST", content_length="0")).status == 502
    await world.server.serve(*world.server.routes)
    received = []
    for app in world.apps.values():
        assert app.stdout is not None
        app.kill()
        received += (await app.stdout.read()).splitlines()
    assert received == [b"cut POST"]


async def test_a_request_that_ends_the_only_instance_is_not_sent_to_it_again(serving: World) -> None:
    """Among several a GET that was lost goes to another; alone, the next life of the app would die of it as well."""
    world = serving
    await world.server.serve(world.route("shop", world.server.routes[0].servers[0]))
    assert (await world.get(HOST, "/cut")).status == 502
    app = world.apps["ins_a"]
    assert app.stdout is not None
    app.kill()
    assert (await app.stdout.read()).splitlines() == [b"cut GET"]


# --- poison -------------------------------------------------------------------------------------------------------


async def test_a_poisoned_route_is_refused_alone(serving: World) -> None:
    """One tenant's bad value must not take the others down, nor itself back to nothing."""
    world = serving
    good = world.server.routes[0]
    a, b = good.servers
    evil = world.route("evil", type(a)(instance="x; shutdown frontend edge", address=a.address, port=1))
    weird = type(good)(app="app_w", app_name="w", organisation="o", hosts=["a b\n"], servers=[a])
    api = type(good)(app="app_api", app_name="api", organisation="o", hosts=["api.localhost"], servers=[a])
    broken = type(good)(
        app=good.app,
        app_name="shop",
        organisation="o",
        hosts=good.hosts,
        servers=[type(a)(instance="ins_z", address="300.1.1.1", port=1)],
    )
    await world.server.serve(broken, evil, weird, api, world.route("fine", b))
    assert len(world.server.reports[-1].problems) == 4
    assert (await world.get("fine.localhost")).status == 200
    assert (await world.get(HOST)).status == 200


async def test_a_server_of_another_cloud_does_not_empty_the_proxy(serving: World) -> None:
    """A server that came up with an empty database is another cloud."""
    world = serving
    await world.server.stop()
    world.server.cloud = "cld_" + "b" * 20
    world.server.ask()
    await world.server.start()
    logs = world.options.data_dir / "logs"
    await until(lambda: any("RefusedByServer" in log.read_text() for log in logs.iterdir()), "the edge refuses")
    assert (await world.get(HOST)).status == 200


async def test_a_server_that_forgot_an_app_does_not_take_it_off_the_net(serving: World) -> None:
    """Its database was restored from before the app, or lost: nothing goes unless it is named."""
    world = serving
    shop = world.server.routes[0]
    world.server.lose_database()
    other = world.route("other", *shop.servers)
    await world.server.serve(other)
    assert (await world.get(HOST)).status == 200
    assert any("'shop'" in problem for problem in world.server.reports[-1].problems)
    await world.kill_edge()
    await world.start_edge()
    await until(lambda: world.server.reports, "the edge is back")
    assert (await world.get(HOST)).status == 200, "also after a restart of the edge"

    newcomer = type(shop)(app="app_new", app_name="shop", organisation="o", hosts=shop.hosts, servers=[])
    await world.server.serve(other, newcomer)
    assert (await world.get(HOST)).status == 200, "a new app of its name isn't ready yet"
    ready = type(shop)(app="app_new", app_name="shop", organisation="o", hosts=shop.hosts, servers=shop.servers[:1])
    await world.server.serve(other, ready)
    assert world.server.reports[-1].problems == []
    await world.server.serve(other)
    assert (await world.get(HOST)).status == 404


# --- killed at every step -----------------------------------------------------------------------------------------

POINTS = sorted(point for point in declared_points() if point.startswith("edge.") and point != apply.SHUTDOWN)


@pytest.mark.parametrize("point", POINTS)
async def test_killed_at_any_step_of_a_change_the_edge_converges_and_nobody_notices(world: World, point: str) -> None:
    """
    The change: one instance replaced, one that drained serves again, one app added, one removed, all at once, the edge
    killed in between. For the steps of HAProxy's start there are more apps than slots, too.
    """
    await world.start_edge()
    a, b, c = [await world.start_app(f"ins_{name}") for name in "abc"]
    await world.server.serve(world.route("shop", a, b), world.route("gone", b))
    await world.server.serve(world.route("shop", a, draining=(b,)), world.route("gone", b))
    await world.kill_edge()
    many = [world.route(f"many{number}", c) for number in range(reconciler.FIRST_SLOTS if "proxy" in point else 0)]
    rest = (world.route("added", c), world.route("idle"), *many)
    once = world.options.run_dir / "once"
    async with world.load(HOST) as load, world.restarted_edge(faults=f"{point}=exit@{once}"):
        world.server.ask(world.route("shop", b, c, draining=(a,)), *rest)
        await until(lambda: "ins_a" in drained(world), "drained")
        await until(once.exists, "the point was met")
        await world.server.serve(world.route("shop", b, c), *rest)
        await world.stop_app("ins_a")
        await world.progress(load)
    assert load.failures == []
    for host, status in (("added", 200), ("gone", 404), ("idle", 503)):
        assert (await world.get(f"{host}.localhost")).status == status
    await until(lambda: len(world.proxies()) == 1, "one HAProxy")


@pytest.mark.parametrize("point", [point for point in POINTS if "proxy" in point or "certificate" in point])
async def test_killed_at_any_step_of_its_first_start_the_edge_starts(world: World, point: str) -> None:
    once = world.options.run_dir / "once"
    async with world.restarted_edge(faults=f"{point}=exit@{once}"):
        await world.server.serve(world.route("shop", await world.start_app("ins_a")))
        assert (await world.get(HOST)).status == 200
        await until(once.exists, "the point was met")
    await until(lambda: len(world.proxies()) == 1, "one HAProxy")


IMPATIENT = """
import runpy
from shellwego.edge import routes
routes.LINGER_SECONDS = 1
runpy.run_module("shellwego.processes.edge", run_name="__main__", alter_sys=True)
"""


async def test_killed_before_it_cuts_off_who_lingers_the_edge_does_so_later(world: World) -> None:
    """A connection to an instance that is long gone would hold a server of HAProxy's for ever."""
    world.program = ("-c", IMPATIENT)
    once = world.options.run_dir / "once"
    async with world.restarted_edge(faults=f"{apply.SHUTDOWN}=exit@{once}"):
        a, b = await world.start_app("ins_a"), await world.start_app("ins_b")
        await world.server.serve(world.route("shop", a))
        reader, writer = await upgrade(world, HOST)
        await world.server.serve(world.route("shop", b))
        await until(once.exists, "the point was met")
        async with asyncio.timeout(30):
            assert await reader.read() == b""

        async def it_is_gone() -> bool:
            return "ins_a" not in (await world.runtime.ask(["show servers state slot1"]))[0]

        await until_true(it_is_gone)
        writer.close()
        assert (await world.get(HOST)).status == 200


def drained(world: World) -> list[str]:
    return world.server.reports[-1].drained if world.server.reports else []


async def until_sessions(world: World, server: str, count: int) -> None:
    async def has_them() -> bool:
        stat = (await world.runtime.ask(["show stat -1 4 -1"]))[0]
        rows = [line.split(",") for line in stat.splitlines() if f",{server}:" in line]
        return any(int(row[4]) == count for row in rows)

    await until_true(has_them)
