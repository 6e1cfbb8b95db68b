"""What every runtime promises, asked of gVisor, runc and the fake: the port's own words.

What only a real sandbox can keep or break is in `test_runtime_sandboxes.py` and `test_runtime_inside.py`.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.sandboxes import REAL, World, output, said, sandbox_world, until

from shellwego.core.errors import NotFound, StartFailed
from shellwego.core.instances import ExitReason
from shellwego.drivers.runtime.fake import FakeRuntime
from shellwego.drivers.runtime.port import Workload


@pytest.fixture(params=["fake", *REAL])
async def world(request: pytest.FixtureRequest, tmp_path: Path, rootfs: Path) -> AsyncIterator[World]:
    async with sandbox_world(request.param, tmp_path, rootfs) as world:
        yield world


async def end(world: World, workload: Workload, code: int) -> None:
    """The app of a sandbox ends by itself with that status."""
    if isinstance(world.driver, FakeRuntime):
        world.driver.crash(workload.id, code)
        return
    session = await world.driver.exec(workload.id, ("sh", "-c", f"echo {code} > /tmp/end"), tty=False, env={})
    await output(session)


class TestRuntime:
    def endable(self, world: World) -> Workload:
        return world.script("while ! [ -s /tmp/end ]; do sleep 0.02; done; exit $(cat /tmp/end)")

    async def test_starting_twice_runs_one(self, world: World) -> None:
        """Else every round of the reconciler would restart what runs."""
        workload = world.workload()
        await world.driver.ensure_running(workload)
        first = await world.find(workload.id)
        await world.driver.ensure_running(workload)
        second = await world.find(workload.id)
        assert first is not None
        assert second is not None
        assert first.running
        assert first.started_at == second.started_at
        assert len(await world.driver.observe()) == 1

    async def test_removing_the_absent_succeeds(self, world: World) -> None:
        workload = world.workload()
        await world.driver.ensure_absent(workload.id, grace_seconds=0)
        await world.driver.ensure_running(workload)
        await world.driver.ensure_absent(workload.id, grace_seconds=0)
        await world.driver.ensure_absent(workload.id, grace_seconds=0)
        assert await world.driver.observe() == []

    async def test_an_exit_is_told_with_its_status(self, world: World) -> None:
        workload = self.endable(world)
        await world.driver.ensure_running(workload)
        await end(world, workload, 3)
        status = await world.ended(workload.id)
        assert (status.reason, status.code) == (ExitReason.EXITED, 3)
        again = await world.find(workload.id)
        assert again is not None
        assert not again.running, "an ended sandbox is seen until it is removed"

    async def test_what_ended_starts_anew(self, world: World) -> None:
        workload = self.endable(world)
        await world.driver.ensure_running(workload)
        await end(world, workload, 1)
        await world.ended(workload.id)
        await world.driver.ensure_running(workload)
        found = await world.find(workload.id)
        assert found is not None
        assert found.running
        assert found.exit is None

    async def test_a_start_that_fails_says_why_and_leaves_nothing(self, world: World) -> None:
        workload = world.workload("no-such-command")
        if isinstance(world.driver, FakeRuntime):
            world.driver.fail_next_start("The command 'no-such-command' was not found")
        with pytest.raises(StartFailed, match="'no-such-command' was not found"):
            await world.driver.ensure_running(workload)
        assert await world.driver.observe() == []

    async def test_exec_keeps_both_outputs_and_the_status(self, world: World) -> None:
        workload = world.workload()
        await world.driver.ensure_running(workload)
        args = ("sh", "-c", "echo out; echo err >&2")
        assert await output(await world.driver.exec(workload.id, args, tty=False, env={})) == (b"out\n", b"err\n", 0)
        session = await world.driver.exec(workload.id, ("sh", "-c", "exit 7"), tty=False, env={})
        assert (await output(session))[2] == 7

    async def test_exec_has_the_environment_of_the_app_and_its_own(self, world: World) -> None:
        workload = world.workload(env={"PATH": "/bin", "A": "app", "B": "app"})
        await world.driver.ensure_running(workload)
        out, _, _ = await output(await world.driver.exec(workload.id, ("env",), tty=False, env={"B": "mine"}))
        assert {"A=app", "B=mine"} <= set(out.decode().splitlines())

    async def test_exec_ends_with_its_input(self, world: World) -> None:
        """Else `tar c . | shellwego exec app -- tar x` would hang."""
        workload = world.workload()
        await world.driver.ensure_running(workload)
        session = await world.driver.exec(workload.id, ("cat",), tty=False, env={})
        await session.write_stdin(b"some ")
        await session.write_stdin(b"input")
        await session.close_stdin()
        assert await output(session) == (b"some input", b"", 0)

    async def test_exec_in_a_terminal_has_the_persons_window(self, world: World) -> None:
        workload = world.workload()
        await world.driver.ensure_running(workload)
        session = await world.driver.exec(workload.id, ("stty", "size"), tty=True, env={}, columns=123, rows=45)
        out, err, status = await output(session)
        assert (out.strip(), err, status) == (b"45 123", b"", 0)

    async def test_exec_can_be_killed(self, world: World) -> None:
        workload = world.workload()
        await world.driver.ensure_running(workload)
        session = await world.driver.exec(workload.id, ("sleep", "1000"), tty=False, env={})
        await session.kill(signal.SIGKILL)
        async with asyncio.timeout(20):
            assert await session.wait() == 137
        await session.close()
        await session.close()

    async def test_exec_needs_a_running_sandbox(self, world: World) -> None:
        with pytest.raises(NotFound):
            await world.driver.exec(world.workload().id, ("true",), tty=False, env={})

    async def test_a_rotated_log_goes_on_in_a_new_file(self, world: World) -> None:
        workload = world.script("i=0; while true; do i=$((i+1)); echo line $i; sleep 0.02; done")
        await world.driver.ensure_running(workload)

        def speaks() -> bool:
            if isinstance(world.driver, FakeRuntime):
                world.driver.write_log(workload.id, "line")
            return bool(said(workload))

        await until(speaks)
        old = workload.log_path.with_suffix(".1")
        workload.log_path.rename(old)
        await world.driver.reopen_log(workload.id)
        await until(speaks)
        await world.driver.ensure_absent(workload.id, grace_seconds=0)
        numbers = [
            int(line.split()[-1])
            for path in (old, workload.log_path)
            for line in path.read_text().splitlines()
            if line[-1].isdecimal()
        ]
        assert numbers == list(range(1, len(numbers) + 1)), "a line got lost in between"
