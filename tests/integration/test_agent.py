"""The agent as a whole, with drivers in memory, against a server that only talks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from tests.integration.agent_world import World, a_world, running_agent
from tests.unit.agent.factories import assignment, ins, spec

from shellwego.agent.node import stop_everything
from shellwego.core.errors import Conflict
from shellwego.core.instances import ExitReason, ExitStatus
from shellwego.protocol.messages import HealthSpec

B, C = ins("b"), ins("c")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with a_world(tmp_path) as made:
        yield made


async def test_an_instance_is_started_and_reported_healthy(world: World) -> None:
    async with running_agent(world.agent()):
        await world.server.say(assignment(1, spec("b")))
        report = await world.server.until_state(B, "healthy")
    assert report.address == "100.96.0.2"
    assert report.port == 8080
    workload = world.runtime.get_workload(B)
    assert workload.args == ("serve",)
    assert workload.env["PORT"] == "8080"
    assert workload.env["COLOUR"] == "blue"
    assert workload.files["/etc/resolv.conf"] == b"nameserver 10.0.2.3\n"
    assert world.server.hellos[0].runtimes == ["gvisor", "gvisor-host-network"]
    assert "runc is missing" in world.server.heartbeats[0].warnings[0]


async def test_apps_outlive_their_agent_and_are_adopted_as_they_are(world: World) -> None:
    """An agent's restart must neither start anything twice nor take a healthy instance out of the traffic."""
    async with running_agent(world.agent()):
        await world.server.say(assignment(1, spec("b"), spec("c")))
        await world.server.until_state(B, "healthy")
        await world.server.until_state(C, "healthy")
    before = {report.id: report for report in world.server.reports[-1].instances}
    heard = len(world.server.reports)
    async with running_agent(world.agent()):
        await world.server.until(lambda: len(world.server.reports) > heard + 1)
    for report in world.server.reports[heard:]:
        assert {found.id: found.state for found in report.instances} == {B: "healthy", C: "healthy"}
        assert {found.id: found.address for found in report.instances} == {id: r.address for id, r in before.items()}
    assert len(world.runtime.starts) == 2
    assert world.server.hellos[-1].generation == 1
    assert world.server.hellos[-1].node == world.server.hellos[0].node


async def test_a_crashed_instance_comes_back_by_itself(world: World) -> None:
    async with running_agent(world.agent()):
        await world.server.say(assignment(1, spec("b", env={"API_KEY": "correct-horse"})))
        await world.server.until_state(B, "healthy")
        world.runtime.write_log(B, "Traceback: out of\x1b[31m luck with correct-horse")
        world.runtime.crash(B, 3)
        failed = await world.server.until_state(B, "backoff")
        assert (failed.exit_reason, failed.exit_code) == ("exited", 3)
        assert "exited with status 3" in failed.reason
        assert failed.last_lines == ["Traceback: out of\\x1b[31m luck with [secret API_KEY]"]
        again = await world.server.until_state(B, "healthy")
    assert again.restarts == 1
    assert again.exit_reason == "exited"


async def test_crashed_apps_are_restarted_while_the_server_is_away(world: World) -> None:
    async with running_agent(world.agent()):
        await world.server.say(assignment(1, spec("b")))
        await world.server.until_state(B, "healthy")
        await world.server.stop()
        world.runtime.crash(B)
        await world.until(lambda: len(world.runtime.starts) == 2)
        await world.server.start()
        await world.server.until_state(B, "healthy")
    # The same for an agent that starts without any server: it goes by its disk.
    await world.server.stop()
    world.runtime.vanish()
    async with running_agent(world.agent()):
        await world.until(lambda: len(world.runtime.starts) == 3)


async def test_an_app_that_keeps_crashing_is_said_to_and_its_patience_survives_the_agent(world: World) -> None:
    async with running_agent(world.agent()):
        await world.server.say(assignment(1, spec("b")))
        await world.server.until_state(B, "healthy")
        world.runtime.crash(B)
        await world.server.until_state(B, "backoff")
        await world.until(lambda: len(world.runtime.starts) == 2)
        world.runtime.crash(B, ExitStatus(ExitReason.OUT_OF_MEMORY))
        failed = await world.server.until_told(B, "2 failures in a row")
        assert failed.exit_reason == "out_of_memory"
    async with running_agent(world.agent()):
        await world.server.until(lambda: len(world.server.hellos) == 2)
        await world.server.until_told(B, "2 failures in a row")


async def test_only_what_is_named_is_removed(world: World) -> None:
    """A server with an empty database must not be able to end anybody's app (fault matrix, row 22)."""
    async with running_agent(world.agent()):
        await world.server.say(assignment(7, spec("b"), spec("c")))
        await world.server.until_state(B, "healthy")
        await world.server.until_state(C, "healthy")
        await world.server.stop()
        world.server.on_connect = [assignment(1)]
        world.server.cloud = "cld_" + "b" * 20
        await world.server.start()
        await world.server.until(lambda: world.server.reports[-1].generation == 1)
        await world.server.until(lambda: world.server.reports[-1].unclaimed == [B, C])
        await world.server.until(lambda: len(world.server.heartbeats[-1].warnings) >= 3)
        warnings = " ".join(world.server.heartbeats[-1].warnings)
        assert "restored from a backup" in warnings
        assert "now calls this cloud" in warnings
        world.runtime.crash(B)
        await world.until(lambda: len(world.runtime.starts) == 3)
        await world.server.say(assignment(2, absent=(B,)))
        await world.server.until_state(B, "stopped")
        await world.server.until(lambda: world.server.reports[-1].unclaimed == [C])
    assert {o.id for o in await world.runtime.observe()} == {C}
    assert list(await world.network.observe()) == [C]


async def test_messages_that_come_twice_or_late_do_no_harm(world: World) -> None:
    first, second = assignment(1, spec("b"), spec("c")), assignment(2, spec("b"), absent=(C,))
    async with running_agent(world.agent()):
        await world.server.say(first, first, second, second, first, second, first)
        await world.server.until_state(B, "healthy")
        await world.server.until_state(C, "stopped")
        await world.server.until(lambda: any("ignored" in w for w in world.server.heartbeats[-1].warnings))
    assert {o.id for o in await world.runtime.observe()} == {B}
    assert [w.id for w in world.runtime.starts].count(B) == 1


async def test_an_app_that_never_answers_is_told_apart_from_one_that_does(world: World) -> None:
    bad = spec("b", health=HealthSpec(kind="http", interval_seconds=0.2, start_period_seconds=0.3, retries=2))
    world.app.status = 503
    async with running_agent(world.agent()):
        await world.server.say(assignment(1, bad))
        await world.server.until_told(B, "answered 503")
        failed = await world.server.until_state(B, "unhealthy", "backoff")
        assert "GET / answered 503" in failed.reason
        backoff = await world.server.until_state(B, "backoff")
        assert backoff.exit_reason == "unhealthy"
        world.app.status = 204
        await world.server.until_state(B, "healthy")
    assert "healthy" not in world.server.history(B)[:-1]


async def test_a_hanging_app_loses_its_traffic_and_is_restarted(world: World) -> None:
    hanging = spec("b", health=HealthSpec(kind="http", interval_seconds=0.2, timeout_seconds=0.3, retries=2))
    async with running_agent(world.agent()):
        await world.server.say(assignment(1, hanging))
        await world.server.until_state(B, "healthy")
        world.app.silent = True
        told = await world.server.until_state(B, "unhealthy", "backoff")
        assert "did not answer within 0.3 s" in told.reason
        await world.until(lambda: len(world.runtime.starts) == 2)


async def test_a_command_check_decides(world: World) -> None:
    bad = HealthSpec(
        kind="command", command=["sh", "-c", "exit 4"], interval_seconds=0.2, start_period_seconds=0, retries=1
    )
    good = msgspec.structs.replace(bad, command=["true"])
    async with running_agent(world.agent()):
        await world.server.say(assignment(1, spec("b", health=bad), spec("c", health=good)))
        await world.server.until_state(C, "healthy")
        told = await world.server.until_state(B, "unhealthy", "backoff")
        assert "exited with status 4" in told.reason


async def test_a_process_without_a_port_is_healthy_once_it_has_lived(world: World) -> None:
    async with running_agent(world.agent()):
        await world.server.say(assignment(1, spec("b", port=None)))
        await world.server.until_state(B, "healthy")
    assert "PORT" not in world.runtime.get_workload(B).env


async def test_what_cannot_start_says_why(world: World) -> None:
    world.images.missing = {"gone"}
    world.runtime.fail_next_start("/serve: no such file")
    async with running_agent(world.agent()):
        await world.server.say(assignment(1, spec("b", image="gone"), spec("c", runtime="firecracker"), spec("d")))
        assert "'gone' was not found" in (await world.server.until_state(B, "backoff")).reason
        assert "no runtime 'firecracker'" in (await world.server.until_state(C, "backoff")).reason
        failed = await world.server.until_state(ins("d"), "backoff")
        assert "failed to start: /serve: no such file" in failed.reason
        assert failed.exit_reason == "failed_to_start"


async def test_a_slow_pull_holds_up_nobody_and_shows_how_far_it_is(world: World) -> None:
    world.images.hold["slow"] = asyncio.Event()
    async with running_agent(world.agent()):
        await world.server.say(assignment(1, spec("b", image="slow"), spec("c", image="slow"), spec("d")))
        await world.server.until_state(ins("d"), "healthy")
        await world.server.until_told(B, "pulling 34 of 120 MB")
        assert world.server.state(C) == "pulling"
        assert world.images.pulls.count("slow") == 1  # One pull for both.
        # A removal need not wait for a pull that may take an hour.
        await world.server.say(assignment(2, spec("c", image="slow"), spec("d"), absent=(B,)))
        await world.server.until_state(B, "stopped")
        world.images.hold["slow"].set()
        await world.server.until_state(C, "healthy")


async def test_a_registry_that_hangs_holds_up_no_other_and_nothing_that_is_here(world: World) -> None:
    """Else one tenant's typo would keep everybody's apps from starting, for as long as a registry may be silent."""
    stuck = {name: f"hangs.test/{name}" for name in "efghij"}
    world.images.hold = {image: asyncio.Event() for image in (*stuck.values(), "hangs.test/here")}
    world.images.here = {"hangs.test/here"}
    async with running_agent(world.agent()):
        waiting = [spec(name, image=image) for name, image in stuck.items()]
        await world.server.say(assignment(1, *waiting))
        await world.until(lambda: len(world.images.pulls) >= 4)
        others = spec("b", image="other.test/app"), spec("c", image="hangs.test/here")
        await world.server.say(assignment(2, *waiting, *others))
        await world.server.until_state(B, "healthy")
        await world.server.until_state(C, "healthy")
        assert len(world.images.pulls) == 5, "of one registry four at a time"


async def test_a_restart_that_was_asked_for(world: World) -> None:
    async with running_agent(world.agent()):
        await world.server.say(assignment(1, spec("b")))
        await world.server.until_state(B, "healthy")
        await world.server.say(assignment(2, spec("b", restart_token=1)))
        await world.until(lambda: len(world.runtime.starts) == 2)
        report = await world.server.until_state(B, "healthy")
    assert report.restarts == 0
    assert report.exit_reason is None


async def test_the_runtime_that_hangs_condemns_nobody(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from shellwego.core.errors import EngineMissing

    async with running_agent(world.agent()):
        await world.server.say(assignment(1, spec("b")))
        await world.server.until_state(B, "healthy")

        async def broken() -> list[object]:
            raise EngineMissing("runsc", "is gone.")

        with monkeypatch.context() as patch:
            patch.setattr(world.runtime, "observe", broken)
            await world.server.until(lambda: any("runsc" in w for w in world.server.heartbeats[-1].warnings))
            assert world.server.state(B) == "healthy"
        await world.server.until(lambda: not any("runsc" in w for w in world.server.heartbeats[-1].warnings))
    assert len(world.runtime.starts) == 1


async def test_a_full_disk_stops_nothing_and_is_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault matrix, rows 16 and 17: state stays whole, apps go on, what frees the disk still works."""
    from shellwego.agent import state as state_module

    async with running_agent(world.agent()):
        await world.server.say(assignment(1, spec("b"), spec("c")))
        await world.server.until_state(B, "healthy")
        await world.server.until_state(C, "healthy")

        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(state_module, "replace_file", full)
            await world.server.say(assignment(2, spec("b"), spec("d"), absent=(C,)))
            await world.until(lambda: C not in world.runtime._sandboxes)
            await world.server.until(lambda: any("can't be written" in w for w in world.server.heartbeats[-1].warnings))
            assert "can't be written" in world.server.heartbeats[-1].unfit
            world.runtime.crash(B)
            await world.until(lambda: len(world.runtime.starts) == 3)  # Restarted all the same.
            assert world.server.state(ins("d")) is None  # A new wish waits.
        await world.server.until_state(ins("d"), "healthy")
        await world.server.until_state(C, "stopped")
        await world.server.until(lambda: world.server.heartbeats[-1].unfit == "")


async def test_two_agents_never_work_on_one_node(world: World) -> None:
    async with running_agent(world.agent()):
        await world.server.until(lambda: bool(world.server.hellos))
        with pytest.raises(Conflict):
            await world.agent().run()
        with pytest.raises(Conflict):
            await stop_everything(world.root / "agent", world.agent()._drivers, wait_seconds=0.2)


async def test_damaged_state_is_found_and_not_obeyed(world: World) -> None:
    """Fault matrix, row 19: one flipped bit in each file."""
    async with running_agent(world.agent()):
        await world.server.say(assignment(3, spec("b"), spec("c")))
        await world.server.until_state(B, "healthy")
        await world.server.until_state(C, "healthy")
    for path in (world.root / "agent" / "goal", world.root / "agent" / "records" / f"{B}.json"):
        content = bytearray(path.read_bytes())
        content[-5] ^= 1
        path.write_bytes(content)
    async with running_agent(world.agent()):
        await world.server.until(lambda: len(world.server.hellos) == 2)
        assert world.server.hellos[-1].generation == 0
        await world.server.until(lambda: world.server.reports[-1].unclaimed == [B, C])
        await world.server.until(lambda: sum("damaged" in w for w in world.server.heartbeats[-1].warnings) == 2)
        assert len(world.runtime.starts) == 2
        await world.server.say(assignment(4, spec("b"), spec("c")))
        await world.server.until_state(C, "healthy")
        await world.server.until_state(B, "healthy")
    assert [w.id for w in world.runtime.starts].count(C) == 1
    addresses = {report.id: report.address for report in world.server.reports[-1].instances}
    assert addresses[B] != addresses[C]


async def test_no_image_goes_while_something_runs_that_the_server_does_not_know(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server with another database names what others need: an image that was built here exists nowhere else."""
    monkeypatch.setattr("shellwego.agent.reconcilers.images.DAILY_SECONDS", 0.0)
    agent = world.agent()
    async with running_agent(agent):
        await world.server.say(assignment(1, spec("b"), spec("c"), keep_images=("b", "c")))
        await world.server.until_state(B, "healthy")
        await world.server.until_state(C, "healthy")
        await world.server.say(assignment(2, spec("c"), keep_images=("c",)))
        await world.server.until(lambda: world.server.reports[-1].unclaimed == [B])
        await agent._collect_images()
        assert world.images.collected == []
        await world.server.say(assignment(3, spec("c"), absent=(B,), keep_images=("c",)))
        await world.server.until(lambda: world.server.reports[-1].unclaimed == [])
        await agent._collect_images()
        assert len(world.images.collected) == 1


async def test_stopping_everything_leaves_nothing_and_the_next_start_blames_nobody(world: World) -> None:
    agent = world.agent()
    async with running_agent(agent):
        await world.server.say(assignment(1, spec("b"), spec("c")))
        await world.server.until_state(B, "healthy")
        await world.server.until_state(C, "healthy")
    assert await stop_everything(world.root / "agent", agent._drivers) == 2
    assert not list(await world.runtime.observe())
    assert not list(await world.network.observe())
    heard = len(world.server.reports)
    async with running_agent(world.agent()):
        await world.server.until(lambda: len(world.server.reports) > heard)
        report = await world.server.until_state(B, "healthy")
        assert report.restarts == 0
