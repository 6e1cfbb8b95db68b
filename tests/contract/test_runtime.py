"""What every runtime promises, asked of gVisor, runc and the fake.

The first half is the port's own words and runs on all three. The second half is what only a real sandbox can keep or
break: limits, isolation, logs, and being found again after we were killed.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.sandboxes import World, fingerprint, make_busybox, output, said, sandbox_world, until

from shellwego.core.apps import Resources
from shellwego.core.errors import NotFound, StartFailed
from shellwego.core.ids import InstanceId
from shellwego.core.instances import ExitReason
from shellwego.drivers.runtime.fake import FakeRuntime
from shellwego.drivers.runtime.port import ExecSession, Workload

REAL = [pytest.param("gvisor", marks=pytest.mark.root), pytest.param("runc", marks=pytest.mark.root)]


@pytest.fixture(scope="session")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_busybox(tmp_path_factory.mktemp("image") / "rootfs")


@pytest.fixture(params=["fake", *REAL])
async def world(request: pytest.FixtureRequest, tmp_path: Path, rootfs: Path) -> AsyncIterator[World]:
    async with sandbox_world(request.param, tmp_path, rootfs) as world:
        yield world


@pytest.fixture(params=REAL)
async def real(request: pytest.FixtureRequest, tmp_path: Path, rootfs: Path) -> AsyncIterator[World]:
    before = fingerprint(rootfs)
    async with sandbox_world(request.param, tmp_path, rootfs) as world:
        yield world
    assert fingerprint(rootfs) == before, "an image that others share was written to"


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


class TestEnds:
    """Why an app ended is what its owner asks first."""

    async def test_by_a_signal(self, real: World) -> None:
        status, _ = await real.run("sh -c 'kill -SEGV $$'; exit $?")
        assert (status.reason, status.code) == (ExitReason.SIGNALLED, signal.SIGSEGV)

    async def test_out_of_memory(self, real: World) -> None:
        """The app must neither hang half dead nor look as if it had crashed by itself."""
        status, _ = await real.run("echo start; tail /dev/zero; echo survived; sleep 1000")
        assert status.reason is ExitReason.OUT_OF_MEMORY

    async def test_out_of_memory_while_no_agent_ran(self, real: World) -> None:
        workload = real.script("sleep 0.5; tail /dev/zero; sleep 1000")
        await real.driver.ensure_running(workload)
        real.restarted()
        group = next(Path("/sys/fs/cgroup").glob(f"memory/shellwego/{real.cloud}/{workload.id}/memory.oom_control"))
        await until(lambda: "oom_kill 0" not in group.read_text())
        assert (await real.ended(workload.id)).reason is ExitReason.OUT_OF_MEMORY

    @pytest.mark.parametrize(
        ("changes", "why"),
        [
            ({"args": ("/data",)}, "is a directory"),
            ({"args": ("/etc/passwd",)}, "not executable"),
            ({"args": ("/bin/nowhere",)}, "was not found"),
            ({"args": ()}, "no command"),
            ({"cwd": "/nowhere"}, "working directory '/nowhere'"),
            ({"user": "nobody-here"}, "no user 'nobody-here'"),
            ({"user": "app:nobodies"}, "no group 'nobodies'"),
            ({"network_namespace": Path("/run/netns/not-there")}, "network"),
        ],
    )
    async def test_a_failed_start_says_why(self, real: World, changes: dict[str, object], why: str) -> None:
        with pytest.raises(StartFailed, match=why):
            await real.driver.ensure_running(replace(real.workload(), **changes))  # type: ignore[arg-type]

    async def test_a_graceful_stop_lets_the_app_finish(self, real: World) -> None:
        workload = real.script('trap "echo finished; exit 0" TERM; echo ready; sleep 1000 & wait')
        await real.driver.ensure_running(workload)
        await until(lambda: "ready" in said(workload))
        await real.driver.ensure_absent(workload.id, grace_seconds=30)
        assert "finished" in said(workload), "the last line of an app is in its log"

    async def test_who_ignores_the_signal_is_ended_after_the_grace(self, real: World) -> None:
        workload = real.script("trap '' TERM; echo ready; while true; do sleep 1; done")
        await real.driver.ensure_running(workload)
        await until(lambda: "ready" in said(workload))
        async with asyncio.timeout(20):
            await real.driver.ensure_absent(workload.id, grace_seconds=0.2)
        assert await real.driver.observe() == []


class TestAgentRestart:
    """Apps outlive the agent; the next one knows them."""

    async def test_a_new_agent_sees_and_stops_what_runs(self, real: World) -> None:
        workload = real.workload()
        await real.driver.ensure_running(workload)
        before = await real.find(workload.id)
        real.restarted()
        after = await real.find(workload.id)
        assert before is not None
        assert after is not None
        assert (after.running, after.started_at) == (True, before.started_at)
        await real.driver.ensure_running(workload)
        assert (await output(await real.driver.exec(workload.id, ("true",), tty=False, env={})))[2] == 0

    async def test_an_exit_that_no_agent_saw_is_still_told(self, real: World) -> None:
        workload = real.script("sleep 0.3; exit 9")
        await real.driver.ensure_running(workload)
        real.restarted()
        status = await real.ended(workload.id)
        assert (status.reason, status.code) == (ExitReason.EXITED, 9)

    async def test_copying_a_flood_of_output_is_not_the_node_s_cost(self, real: World) -> None:
        """No limit of an app's counts what its monitor does; without one of its own, that takes a core."""
        workload = real.script("yes")
        await real.driver.ensure_running(workload)
        group = Path(f"/sys/fs/cgroup/cpu/shellwego/{real.cloud}/copying/monitor-{workload.id}")
        (monitor,) = (group / "cgroup.procs").read_text().split()
        assert Path(f"/proc/{monitor}/comm").read_text() == "conmon\n"
        assert int((group / "cpu.cfs_quota_us").read_text()) * 5 < int((group / "cpu.cfs_period_us").read_text())
        await real.driver.ensure_absent(workload.id, grace_seconds=0)
        assert not group.exists()

    async def test_a_machine_that_restarted_says_so(self, real: World) -> None:
        """All processes are gone at once, the monitor too."""
        workload = real.workload()
        await real.driver.ensure_running(workload)
        group = Path(f"/sys/fs/cgroup/pids/shellwego/{real.cloud}")
        for folder in ("monitors", workload.id):
            for pid in (group / folder / "cgroup.procs").read_text().split():
                os.kill(int(pid), signal.SIGKILL)
        status = await real.ended(workload.id)
        assert status.reason is ExitReason.UNKNOWN
        await real.driver.ensure_running(workload)
        found = await real.find(workload.id)
        assert found is not None
        assert found.running

    async def test_other_sandboxes_come_and_go_meanwhile(self, real: World) -> None:
        first = [real.workload() for _ in range(4)]
        second = [real.workload() for _ in range(4)]
        await asyncio.gather(*(real.driver.ensure_running(workload) for workload in first))
        await asyncio.gather(
            *(real.driver.ensure_absent(workload.id, grace_seconds=0) for workload in first),
            *(real.driver.ensure_running(workload) for workload in second),
        )
        assert {(seen.id, seen.running) for seen in await real.driver.observe()} == {
            (workload.id, True) for workload in second
        }


class TestLogs:
    async def test_both_streams_in_the_format_of_kubernetes(self, real: World) -> None:
        workload = real.script("echo to out; echo to err >&2; printf 'no end'")
        await real.driver.ensure_running(workload)
        await real.ended(workload.id)
        lines = [line.split(" ", 3) for line in workload.log_path.read_text().splitlines()]
        assert {(stream, text) for _, stream, _, text in lines} == {
            ("stdout", "to out"),
            ("stderr", "to err"),
            ("stdout", "no end"),
        }

    async def test_a_hostile_line_can_not_pose_as_another(self, real: World) -> None:
        """Fake JSON, carriage returns and escape sequences stay in their own line; 10 MB without an end come too."""
        forged = "2026-01-01T00:00:00.000000000+00:00 stderr F forged"
        _, text = await real.run(
            f"printf '{forged}\\n\\033[2J\\r{{\"a\":1}}\\n'; dd if=/dev/zero bs=1M count=10 | tr '\\0' x; echo"
        )
        lines = text.split("\n")
        assert lines[0] == forged
        assert lines[1] == '\033[2J\r{"a":1}'
        assert len(lines[2]) == 10 << 20

    async def test_a_flood_while_nobody_rotates_does_not_fill_the_disk(self, real: World) -> None:
        real.driver._log_limit_mib = 1  # type: ignore[union-attr]
        workload = real.script("dd if=/dev/zero bs=1M count=2 | tr '\\0' '\\n'; echo the end; sleep 1000")
        await real.driver.ensure_running(workload)
        await until(lambda: "the end" in workload.log_path.read_text(), within_seconds=120)
        assert workload.log_path.stat().st_size <= 1 << 20
        assert [path.name for path in workload.log_path.parent.iterdir()] == [workload.log_path.name]


class TestLimits:
    async def test_the_disk_limit_is_met_as_a_full_disk(self, real: World) -> None:
        status, text = await real.run(
            "dd if=/dev/zero of=/data/fill bs=1M count=100 2>&1; rm /data/fill; echo ok > /data/x && cat /data/x"
        )
        assert "No space left" in text
        assert text.endswith("ok\n"), "what is deleted is room again"
        assert status.code == 0

    async def test_a_fork_bomb_hurts_only_itself(self, real: World) -> None:
        bomb = real.script("b() { b & b & wait; }; b; sleep 1000", resources=Resources(256, 500, 64, 32))
        neighbour = real.workload()
        await real.driver.ensure_running(neighbour)
        await real.driver.ensure_running(bomb)
        await until(lambda: "can't fork" in said(bomb, "stderr"))
        assert (await output(await real.driver.exec(neighbour.id, ("true",), tty=False, env={})))[2] == 0
        async with asyncio.timeout(30):
            await real.driver.ensure_absent(bomb.id, grace_seconds=0)

    async def test_as_many_processes_as_promised(self, real: World) -> None:
        """The sandbox's own threads are not the app's."""
        _, text = await real.run(
            "i=0; while [ $i -lt 55 ]; do sleep 1000 & i=$((i+1)); done; echo started $i",
            resources=Resources(128, 1000, 64, 32),
        )
        assert text == "started 55\n"

    async def test_the_processor_is_shared_as_promised(self, real: World) -> None:
        """Counted by the kernel, not by a clock: a fifth of a core can't use much more than a fifth."""
        workload = real.script("while true; do :; done", resources=Resources(64, 200, 64, 32))
        await real.driver.ensure_running(workload)
        group = Path(f"/sys/fs/cgroup/cpu/shellwego/{real.cloud}/{workload.id}")
        assert (group / "cpu.cfs_quota_us").read_text().strip() == "20000"
        await until(lambda: "nr_throttled 0" not in (group / "cpu.stat").read_text())

    async def test_the_app_sees_the_memory_that_it_was_promised(self, real: World) -> None:
        if real.kind == "runc":
            pytest.skip("a shared kernel shows its own memory; language runtimes read the control group")
        _, text = await real.run("head -1 /proc/meminfo")
        assert text.split()[1] == str(64 * 1024)


class TestInside:
    async def test_names_are_those_of_the_image(self, real: World) -> None:
        _, text = await real.run(
            "id -u; id -g; id -G; echo $HOME; hostname; pwd", user="app", cwd="/data", hostname="web-1"
        )
        assert text.split() == ["1000", "1001", "1001", "63", "/home/app", "web-1", "/data"]

    async def test_a_number_and_a_group_need_no_entry(self, real: World) -> None:
        _, text = await real.run("id -u; id -g; id -G", user="4242:staff")
        assert text.split() == ["4242", "1001", "1001"]

    async def test_our_files_lie_over_the_image_and_are_read_only(self, real: World) -> None:
        files = {
            "/etc/resolv.conf": b"nameserver 10.0.0.1\n",
            "/etc/passwd": b"root:x:0:0::/:/bin/sh\n",
            "/opt/new/deep/file": b"new\n",
        }
        _, text = await real.run(
            "cat /etc/resolv.conf /etc/passwd /opt/new/deep/file; echo x > /etc/passwd || echo refused; ls -ld /etc",
            files=files,
            user="0:0",
        )
        assert text.startswith("nameserver 10.0.0.1\nroot:x:0:0::/:/bin/sh\nnew\nrefused\n")

    async def test_secrets_are_on_no_disk(self, real: World) -> None:
        workload = real.workload(
            env={"PATH": "/bin", "TOKEN": "a-secret-of-mine"}, files={"/etc/key": b"another-secret"}
        )
        await real.driver.ensure_running(workload)
        for path in [*real.scratch.rglob("*"), *Path("/run/shellwego").glob(f"{real.cloud}/*")]:
            if path.is_file():
                assert b"secret" not in path.read_bytes()
        mount = f"/run/shellwego/{real.cloud}/{real.kind} "
        assert any(
            mount in line and " tmpfs " in line for line in Path("/proc/self/mountinfo").read_text().splitlines()
        )
        assert Path(mount.strip()).stat().st_mode & 0o777 == 0o700

    async def test_a_write_is_private_and_gone_with_the_sandbox(self, real: World) -> None:
        workload = real.script("echo mine > /data/x; rm -r /home; echo > /bin/sh; sleep 1000")
        await real.driver.ensure_running(workload)
        other = real.script("cat /data/x; ls -d /home; sleep 1000")
        await real.driver.ensure_running(other)
        await until(lambda: "/home" in said(other))
        assert "mine" not in said(other)


class Person:
    """Who sits at the terminal of a command."""

    def __init__(self, session: ExecSession) -> None:
        self._session = session
        self._unread = b""

    async def reads(self, *texts: bytes) -> None:
        """Read on until these have come, in this order."""
        for text in texts:
            async with asyncio.timeout(20):
                while text not in self._unread:
                    chunk = await self._session.read_stdout()
                    assert chunk, self._unread
                    self._unread += chunk
            self._unread = self._unread.partition(text)[2]


class TestExec:
    async def test_closing_ends_the_command_and_its_children(self, real: World) -> None:
        """A person who closes the laptop must not leave processes behind in the app."""
        workload = real.workload()
        await real.driver.ensure_running(workload)
        session = await real.driver.exec(workload.id, ("sh", "-c", "sleep 501 & sleep 502; echo"), tty=False, env={})
        await asyncio.wait_for(self.processes(real, workload.id, "sleep 50", 2), 20)
        await session.close()
        await asyncio.wait_for(self.processes(real, workload.id, "sleep 50", 0), 20)

    async def processes(self, world: World, id: InstanceId, text: str, count: int) -> None:
        while True:
            args = ("sh", "-c", 'for p in /proc/[0-9]*; do tr "\\0" " " < $p/cmdline; echo; done')
            out, _, _ = await output(await world.driver.exec(id, args, tty=False, env={}))
            if sum(line.startswith(text) for line in out.decode().splitlines()) == count:
                return

    async def test_a_terminal_follows_its_window_and_its_keys(self, real: World) -> None:
        workload = real.workload()
        await real.driver.ensure_running(workload)
        script = (
            'trap "stty size" WINCH; trap "echo interrupted; exit 4" INT; echo ready; while true; do sleep 0.1; done'
        )
        session = await real.driver.exec(workload.id, ("sh", "-c", script), tty=True, env={})
        person = Person(session)
        await person.reads(b"ready")
        await session.resize(columns=101, rows=33)
        await person.reads(b"33 101")
        await session.write_stdin(b"\x03")
        await person.reads(b"interrupted")
        async with asyncio.timeout(20):
            assert await session.wait() == 4
        await session.close()

    async def test_a_shell_in_a_terminal_is_a_shell_as_anywhere(self, real: World) -> None:
        """A program is put aside and taken up again, interrupted, and its input ended; /dev/tty is this terminal."""
        workload = real.workload()
        await real.driver.ensure_running(workload)
        session = await real.driver.exec(workload.id, ("sh", "-i"), tty=True, env={"PS1": "next> "})
        person = Person(session)
        await person.reads(b"next> ")
        # The quotes tell what a command says from the echo of what was typed.
        await session.write_stdin(b"sh -c 'echo be\"\"gun; exec sleep 1000'\r")
        await person.reads(b"begun")
        await session.write_stdin(b"\x1a")
        await person.reads(b"Stopped", b"next> ")
        await session.write_stdin(b"fg\r")
        await person.reads(b"fg", b"sh -c")
        await session.write_stdin(b"\x03")
        await person.reads(b"next> ")
        await session.write_stdin(b'echo ended with $?; echo in be""tween > /dev/tty; cat\r')
        await person.reads(b"ended with 130", b"in between")
        await session.write_stdin(b"typed\r")
        await person.reads(b"typed", b"typed")
        await session.write_stdin(b"\x04")
        await person.reads(b"next> ")
        await session.write_stdin(b"exit 7\r")
        async with asyncio.timeout(20):
            assert await session.wait() == 7
        await session.close()

    async def test_a_flood_waits_for_its_reader(self, real: World) -> None:
        """All of it arrives, and none of it is kept in our memory meanwhile."""
        workload = real.workload()
        await real.driver.ensure_running(workload)
        args = ("dd", "if=/dev/zero", "bs=1M", "count=30")
        session = await real.driver.exec(workload.id, args, tty=False, env={})
        first = await session.read_stdout()
        assert len(first) <= 1 << 16
        out, _, status = await output(session)
        assert (len(first) + len(out), status) == (30 << 20, 0)

    async def test_a_command_that_is_not_there(self, real: World) -> None:
        workload = real.workload()
        await real.driver.ensure_running(workload)
        for tty in (False, True):
            with pytest.raises(StartFailed, match="not found"):
                await real.driver.exec(workload.id, ("no-such-command",), tty=tty, env={})


PROBE = """
grep -E 'Cap(Eff|Bnd|Amb|Inh)|NoNewPrivs' /proc/self/status
ls /dev | tr '\\n' ' '; echo
for f in /proc/kcore /proc/sysrq-trigger /dev/mem /dev/kmem /dev/sda /dev/vda /dev/kvm /dev/fuse /dev/loop0; do
  head -c 1 $f 2>/dev/null | grep -q . && echo "READABLE $f"
done
for f in /proc/sys/kernel/core_pattern /proc/sys/kernel/hostname /proc/sysrq-trigger /sys/kernel/uevent_helper \
         /sys/fs/cgroup/release_agent /sys/fs/cgroup/x /proc/sys/vm/panic_on_oom; do
  (echo x > $f) 2>/dev/null && echo "WRITABLE $f"
done
mknod /data/disk b 254 0 2>/dev/null && head -c 1 /data/disk 2>/dev/null && echo "MKNOD"
mount -t tmpfs none /data 2>/dev/null && echo "MOUNTED"
mount -t cgroup none /data 2>/dev/null && echo "MOUNTED cgroup"
chroot / true 2>/dev/null && echo "CHROOT"
unshare -U true 2>/dev/null && [ "$(uname -v | grep -c gVisor)" = 9 ] && echo "USERNS"
hostname evil 2>/dev/null && echo "HOSTNAME"
ls /proc | grep -E '^[0-9]+$' | wc -l | sed 's/^/PROCESSES /'
echo done
"""


class TestEscape:
    """What a stranger tries first."""

    async def test_root_inside_can_do_nothing_to_the_host(self, real: World) -> None:
        _, text = await real.run(PROBE)
        assert text.endswith("done\n")
        for word in ("READABLE", "WRITABLE", "MKNOD", "MOUNTED", "CHROOT", "HOSTNAME"):
            assert word not in text, text
        assert "CapEff:\t00000000000004eb" in text
        assert "CapBnd:\t00000000000004eb" in text
        assert "NoNewPrivs:\t1" in text
        processes = int(text.split("PROCESSES ")[1].split()[0])
        assert processes < 10, "other processes are visible"

    async def test_only_the_standard_devices(self, real: World) -> None:
        _, text = await real.run("ls /dev")
        assert set(text.split()) <= {
            "char",
            "console",
            "core",
            "fd",
            "full",
            "mqueue",
            "null",
            "ptmx",
            "pts",
            "random",
            "shm",
            "stderr",
            "stdin",
            "stdout",
            "tty",
            "urandom",
            "zero",
            "net",
            "fuse",
        }

    async def test_who_is_not_root_has_no_capability_and_gains_none(self, real: World, tmp_path: Path) -> None:
        image = tmp_path / "setuid"
        shutil.copytree(real.rootfs, image, symlinks=True)
        shutil.copy(image / "bin/busybox", image / "bin/root-id")
        (image / "bin/id").unlink()
        shutil.copy(image / "bin/busybox", image / "bin/id")
        (image / "bin/id").chmod(0o6755)
        _, text = await real.run("id -u; grep CapEff /proc/self/status", user="app", rootfs=image)
        assert text == "1000\nCapEff:\t0000000000000000\n"

    async def test_a_link_in_the_image_leads_nowhere_outside(self, real: World, tmp_path: Path) -> None:
        """The image's own links decide where our files go, and they are a stranger's."""
        image, victim = tmp_path / "links", tmp_path / "victim"
        victim.mkdir()
        shutil.copytree(real.rootfs, image, symlinks=True)
        (image / "etc/passwd").unlink()
        (image / "etc/passwd").symlink_to("/proc/1/environ")
        (image / "opt").symlink_to(victim)
        (image / "srv").symlink_to("../../../../../.." + str(victim))
        _, text = await real.run(
            "cat /opt/key; cat /srv/key", rootfs=image, files={"/opt/key": b"1", "/srv/key": b"2"}, user="0"
        )
        assert list(victim.iterdir()) == []
        assert text.strip() in ("12", "22")

    async def test_a_neighbour_is_out_of_sight(self, real: World) -> None:
        neighbour = real.workload("sleep", "98765")
        await real.driver.ensure_running(neighbour)
        _, text = await real.run("cat /proc/[0-9]*/cmdline | tr '\\0' ' '; ps")
        assert "98765" not in text
