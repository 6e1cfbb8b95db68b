"""What only a real sandbox of gVisor or runc can keep or break.

Its end, its limits, its log, and being found again after we were killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from tests.sandboxes import World, output, said, until

from shellwego.core.apps import Resources
from shellwego.core.errors import StartFailed
from shellwego.core.instances import ExitReason


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
                with contextlib.suppress(ProcessLookupError):  # It ended with one that was killed before.
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
