"""The agent as a whole, with drivers in memory or on disk, against a server that only talks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from tests.integration.agent_world import DiskRuntime, SomeImages, TalkingServer, running_agent
from tests.unit.agent.factories import assignment, ins, spec

from shellwego.agent.logs import CURRENT, LogLimits
from shellwego.agent.node import Agent, AgentSettings, Drivers, stop_everything
from shellwego.core.errors import Conflict
from shellwego.core.instances import ExitReason, ExitStatus
from shellwego.drivers.kms.fake import FakeKms
from shellwego.drivers.network.fake import FakeNetwork
from shellwego.drivers.runtime.fake import FakeRuntime
from shellwego.kit.faults import declared_points
from shellwego.protocol.channel import Channel, ChannelClosed
from shellwego.protocol.messages import (
    ExecData,
    ExecRequest,
    ExecResize,
    ExecSignal,
    HealthSpec,
    LogLine,
    LogsRequest,
    Message,
    StreamEnd,
)

B, C = ins("b"), ins("c")


@dataclass
class World:
    """One node whose kernel lives in memory, its agent and its server."""

    root: Path
    runtime: FakeRuntime
    network: FakeNetwork
    images: SomeImages
    kms: FakeKms
    server: TalkingServer
    app: Listener
    limits: LogLimits | None = None

    def agent(self) -> Agent:
        settings = AgentSettings(
            directory=self.root / "agent",
            control_socket=self.root / "control.sock",
            name="node",
            log_limits=self.limits,
            missing_engines=("runc is missing. Run `shellwego engines install`.",),
        )
        runtimes = {"gvisor": self.runtime, "gvisor-host-network": self.runtime}
        return Agent(settings, Drivers(runtimes, self.network, self.images, self.kms))

    async def until(self, fact: Callable[[], bool], *, seconds: float = 15.0) -> None:
        async with asyncio.timeout(seconds):
            while not fact():  # noqa: ASYNC110 - a fake's memory tells nobody when it changes
                await asyncio.sleep(0.01)


class Listener:
    """The app's port: answers HTTP with `status`, or takes connections and is silent."""

    def __init__(self) -> None:
        self.status = 200
        self.silent = False
        self.port = 0
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await reader.readuntil(b"\r\n\r\n")
            if self.silent:
                await reader.read()
            else:
                writer.write(f"HTTP/1.1 {self.status} Said\r\ncontent-length: 0\r\n\r\n".encode())
                await writer.drain()
        writer.close()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    app = Listener()
    await app.start()
    server = TalkingServer(tmp_path / "control.sock")
    await server.start()
    runtime = FakeRuntime(name="gvisor", writes_logs=True)
    network = FakeNetwork()
    for address in list(network.addresses)[:20]:
        network.listen(address, 8080, ("127.0.0.1", app.port))
    yield World(tmp_path, runtime, network, SomeImages(tmp_path / "rootfs"), FakeKms(), server, app)
    runtime.vanish()
    await server.stop()
    await app.stop()


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


# Streams


async def read_stream(channel: Channel) -> list[Message]:
    heard: list[Message] = []
    async with asyncio.timeout(15):
        while not isinstance(heard[-1] if heard else None, StreamEnd):
            heard.append(await channel.receive())
    return heard


async def test_exec_carries_bytes_status_and_window(world: World) -> None:
    async with running_agent(world.agent()):
        await world.server.say(assignment(1, spec("b")))
        await world.server.until_state(B, "healthy")
        echo = await world.server.open(ExecRequest(instance=B, command=["sh", "-c", "exit 7"]))
        assert (await read_stream(echo))[-1] == StreamEnd(exit_code=7)
        cat = await world.server.open(ExecRequest(instance=B, command=["cat"], tty=True))
        await cat.send(ExecResize(columns=100, rows=30))
        await cat.send(ExecData(channel="stdin", data=b"\x00\xffhi"))
        assert await cat.receive() == ExecData(channel="stdout", data=b"\x00\xffhi")
        await cat.send(ExecData(channel="stdin", data=b""))
        assert (await read_stream(cat))[-1] == StreamEnd(exit_code=0)
        both = await world.server.open(ExecRequest(instance=B, command=["sh", "-c", "echo out; echo err >&2"]))
        said = await read_stream(both)
        assert ExecData(channel="stderr", data=b"err\n") in said
        killed = await world.server.open(ExecRequest(instance=B, command=["sleep", "99"]))
        await killed.send(ExecSignal(number=2))
        assert (await read_stream(killed))[-1] == StreamEnd(exit_code=130)
        nobody = await world.server.open(ExecRequest(instance=C, command=["true"]))
        end = (await read_stream(nobody))[-1]
        assert isinstance(end, StreamEnd)
        assert end.code == "not_found"


async def test_a_command_ends_when_nobody_listens_any_more(world: World) -> None:
    """A closed laptop must not leave a shell in the app for ever."""
    async with running_agent(world.agent()):
        await world.server.say(assignment(1, spec("b")))
        await world.server.until_state(B, "healthy")
        channel = await world.server.open(ExecRequest(instance=B, command=["sleep", "99"]))
        sessions = world.runtime._sandboxes[B].sessions
        await world.until(lambda: bool(sessions))
        await channel.close()
        await world.until(lambda: sessions[0].signals == [9])


async def test_logs_of_several_instances_by_time_and_as_they_come(world: World) -> None:
    async with running_agent(world.agent()):
        await world.server.say(assignment(1, spec("b"), spec("c")))
        await world.server.until_state(B, "healthy")
        await world.server.until_state(C, "healthy")
        for number in range(3):
            world.runtime.write_log(B, f"b{number}")
            world.runtime.write_log(C, f"c{number}", stream="stderr")
        channel = await world.server.open(LogsRequest(instances=[B, C], tail=3))
        lines = [m for m in await read_stream(channel) if isinstance(m, LogLine)]
        assert [line.text for line in lines] == ["c1", "b2", "c2"]
        assert lines[0].stream == "stderr"
        follow = await world.server.open(LogsRequest(instances=[B], tail=1, follow=True))
        assert await next_text(follow) == "b2"
        world.runtime.write_log(B, "news")
        assert await next_text(follow) == "news"
        await follow.close()


async def test_a_follower_misses_nothing_when_logs_are_rotated(world: World) -> None:
    world.limits = LogLimits(file_bytes=2000, files_per_instance=3)
    async with running_agent(world.agent()):
        await world.server.say(assignment(1, spec("b")))
        await world.server.until_state(B, "healthy")
        follow = await world.server.open(LogsRequest(instances=[B], follow=True))
        directory = next((world.root / "agent" / "logs").glob(f"*/{B}"))
        for number in range(120):
            world.runtime.write_log(B, f"line {number} " + "x" * 40)
            assert await next_text(follow) == f"line {number} " + "x" * 40
            if number % 40 == 39:
                # The name is not there between the rename and the writer's opening of a new file.
                await world.until(lambda: (new := directory / "current").exists() and new.stat().st_size < 2000)
        await follow.close()
        assert len(list(directory.iterdir())) == 3  # Bounded.


async def test_the_log_outlives_its_instance(world: World) -> None:
    """Users ask why the old release ended after it ended."""
    async with running_agent(world.agent()):
        await world.server.say(assignment(1, spec("b")))
        await world.server.until_state(B, "healthy")
        world.runtime.write_log(B, "last words")
        await world.server.say(assignment(2, absent=(B,)))
        await world.server.until_state(B, "stopped")
        channel = await world.server.open(LogsRequest(instances=[B]))
        assert [m.text for m in await read_stream(channel) if isinstance(m, LogLine)] == ["last words"]


async def test_a_reader_that_stands_still_holds_up_nobody(world: World) -> None:
    async with running_agent(world.agent()):
        await world.server.say(assignment(1, spec("b")))
        await world.server.until_state(B, "healthy")
        for _ in range(20):
            world.runtime.write_log(B, "\n".join("x" * 500 for _ in range(200)))
        channel = await world.server.open(LogsRequest(instances=[B], follow=True))
        world.runtime.crash(B)  # Nobody reads the channel, and the agent does its work.
        await world.server.until_state(B, "backoff")
        await world.server.until_state(B, "healthy")
        await channel.close()


async def next_text(channel: Channel) -> str:
    async with asyncio.timeout(15):
        message = await channel.receive()
    assert isinstance(message, LogLine)
    return message.text


# Death at every step

POINTS = sorted(point for point in declared_points() if point.startswith("agent."))


async def spawn_agent(root: Path, control: Path, port: int, faults: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.integration.agent_world",
        str(root),
        str(control),
        str(port),
        env={**os.environ, "SHELLWEGO_FAULTS": faults},
        stdout=asyncio.subprocess.DEVNULL,
    )


@pytest.mark.parametrize("point", POINTS)
async def test_killed_at_any_step_it_goes_on_where_it_was(point: str, tmp_path: Path) -> None:
    """
    Start, crash, restart, removal, a command inside and the chores, with a SIGKILL at this step: right end state, one
    start each, nothing left.
    """
    app = Listener()
    await app.start()
    server = TalkingServer(tmp_path / "c.sock")
    await server.start()
    root = tmp_path / "node"
    root.mkdir()
    runtime = DiskRuntime(root)
    (root / "namespaces").mkdir()
    (root / "namespaces" / ins("x")).write_text("100.96.0.99")  # Nobody's.
    once = tmp_path / "killed"
    process = await spawn_agent(root, tmp_path / "c.sock", app.port, f"{point}=exit@{once}")
    supervisor = asyncio.create_task(keep_alive(process, root, tmp_path / "c.sock", app.port, f"{point}=exit@{once}"))
    try:
        server.on_connect = [assignment(1, spec("b"), spec("c"), keep_images=[])]
        await server.say(*server.on_connect)
        await server.until_state(B, "healthy")
        await server.until_state(C, "healthy")
        runtime.crash(C, 1)
        await server.until(lambda: (r := server.instance(C)) is not None and r.restarts == 1 and r.state == "healthy")
        server.on_connect = [assignment(2, spec("b", restart_token=1), absent=(C,), keep_images=[])]
        with contextlib.suppress(ChannelClosed):
            await server.say(*server.on_connect)
        await server.until_state(C, "stopped")
        await server.until(lambda: runtime.starts.count(B) == 2)
        await server.until_state(B, "healthy")
        with contextlib.suppress(ChannelClosed, TimeoutError):
            await (await server.open(ExecRequest(instance=B, command=["true"]))).receive()
        await until(once.exists)
        await server.until_state(B, "healthy")
        await until(lambda: names(root / "namespaces") == {B})
        await until(lambda: {CURRENT, "0000000001.log"} <= names(*(root / "agent" / "logs").glob(f"*/{B}")))
    finally:
        supervisor.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await supervisor
        await server.stop()
        await app.stop()
    assert runtime.running == {B}
    assert runtime.starts.count(B) == 2
    assert runtime.starts.count(C) == 2
    assert names(root / "namespaces") == {B}
    assert names(root / "agent" / "records") == {f"{B}.json"}


async def keep_alive(process: asyncio.subprocess.Process, root: Path, control: Path, port: int, faults: str) -> None:
    try:
        while True:
            status = await process.wait()
            assert status == 137, f"the agent ended with {status}"
            process = await spawn_agent(root, control, port, faults)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            await process.wait()


def names(*directories: Path) -> set[str]:
    return {path.name for directory in directories for path in directory.iterdir()}


async def until(fact: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not fact():  # noqa: ASYNC110 - another process's files tell nobody when they change
            await asyncio.sleep(0.05)


def test_no_step_is_forgotten() -> None:
    """The list above comes from the code; were it empty, the test before would prove nothing."""
    assert len(POINTS) > 15
