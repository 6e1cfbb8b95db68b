"""What is told about a sandbox, from its folder, its control groups and /proc alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shellwego.core.ids import InstanceId
from shellwego.core.instances import ExitReason, ExitStatus
from shellwego.drivers.runtime.bundle import Bundle, Record, look_at
from shellwego.drivers.runtime.cgroups import CGroupsV1, CGroupsV2, find_cgroups
from shellwego.drivers.runtime.gvisor import _family
from shellwego.drivers.runtime.monitor import read_exit
from shellwego.drivers.runtime.processes import ProcessMark, mark_process

ID = InstanceId("ins_" + "b" * 20)
MISSING = ProcessMark(1 << 22, 1)


@pytest.fixture(params=["v1", "v2"])
def system(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A tree as the kernel shows it, with one group of two processes."""
    root = tmp_path / "cgroup"
    if request.param == "v2":
        group = root / "shellwego/x" / ID
        group.mkdir(parents=True)
        (root / "cgroup.controllers").write_text("cpu memory pids")
        for name, text in {
            "memory.events": "low 0\noom 0\noom_kill 0\n",
            "memory.max": "max",
            "memory.oom.group": "0",
            "cgroup.procs": "11\n12\n",
        }.items():
            (group / name).write_text(text)
        return root
    for controller, files in {
        "memory": {
            "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n",
            "memory.limit_in_bytes": "1",
            "memory.memsw.limit_in_bytes": "1",
            "cgroup.procs": "11\n12\n",
        },
        "pids": {"cgroup.procs": "12\n", "pids.max": "5"},
    }.items():
        group = root / controller / "shellwego/x" / ID
        group.mkdir(parents=True)
        for name, text in files.items():
            (group / name).write_text(text)
    (root / "cpu,cpuacct").mkdir()
    (root / "cpu").symlink_to("cpu,cpuacct")
    return root


def out_of_memory(system: Path) -> None:
    for path in (*system.rglob("memory.events"), *system.rglob("memory.oom_control")):
        path.write_text(path.read_text().replace("oom_kill 0", "oom_kill 1"))


def test_counters_are_the_same_on_both_versions(system: Path) -> None:
    groups = find_cgroups("shellwego/x", system=system)
    assert isinstance(groups, CGroupsV1 | CGroupsV2)
    assert groups.pids(ID) == {11, 12}
    assert groups.out_of_memory_kills(ID) == 0
    out_of_memory(system)
    assert groups.out_of_memory_kills(ID) == 1
    groups.raise_memory(ID, 4096)
    limits = [path.read_text() for pattern in ("memory.max", "*limit_in_bytes") for path in system.rglob(pattern)]
    assert set(limits) == {"4096"}


def test_a_monitor_s_share_of_the_cpu_is_written_on_both_versions(system: Path) -> None:
    """A flood of output must cost its own app the time to copy it, not the neighbours."""
    (system / "cgroup.subtree_control").touch()
    find_cgroups("shellwego/x", system=system).limit_cpu("copying/a", 4242, 100)
    written = {path.name: path.read_text() for path in system.rglob("copying/a/*")}
    v1 = {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "10000"}
    assert written in (v1 | {"cgroup.procs": "4242"}, {"cpu.max": "10000 100000", "cgroup.procs": "4242"})
    assert (system / "cgroup.subtree_control").read_text() == ("+cpu" if "cpu.max" in written else "")


def test_what_is_not_there_reads_as_nothing(system: Path) -> None:
    groups = find_cgroups("shellwego/x", system=system)
    assert groups.pids("gone") == set()
    assert groups.out_of_memory_kills("gone") == 0
    assert groups.remove("gone")


def test_a_pid_alone_is_not_a_process() -> None:
    """After a reboot another program has the number, and must not be taken for the app, let alone killed."""
    mine = mark_process(os.getpid())
    assert mine is not None
    assert mine.is_alive()
    assert not ProcessMark(mine.pid, mine.ticks + 1).is_alive()
    ProcessMark(mine.pid, mine.ticks + 1).send(9)


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("0", ExitStatus(ExitReason.EXITED, 0)),
        ("127", ExitStatus(ExitReason.EXITED, 127)),
        ("137", ExitStatus(ExitReason.SIGNALLED, 9, "SIGKILL")),
        ("255", ExitStatus(ExitReason.EXITED, 255)),
        ("", None),
    ],
)
def test_exit_numbers(tmp_path: Path, text: str, status: ExitStatus | None) -> None:
    (tmp_path / "exit").write_text(text)
    assert read_exit(str(tmp_path / "exit")) == status


class TestLook:
    @pytest.fixture
    def bundle(self, tmp_path: Path) -> Bundle:
        bundle = Bundle(ID, tmp_path / "sandboxes" / ID)
        bundle.path.mkdir(parents=True)
        return bundle

    def record(self, bundle: Bundle, first: ProcessMark, monitor: ProcessMark = MISSING) -> None:
        bundle.write_record(Record(first, monitor, 12.5, Path("/logs/x")))

    def test_running(self, bundle: Bundle, system: Path) -> None:
        me = mark_process(os.getpid())
        assert me is not None
        self.record(bundle, me)
        seen = look_at(bundle, find_cgroups("shellwego/x", system=system))
        assert seen is not None
        assert (seen.running, seen.exit, seen.started_at) == (True, None, 12.5)

    def test_the_last_lines_are_still_written(self, bundle: Bundle, system: Path) -> None:
        """Its exit status is told by the monitor, so the sandbox hasn't ended "unseen" while that one works."""
        me = mark_process(os.getpid())
        assert me is not None
        self.record(bundle, MISSING, me)
        seen = look_at(bundle, find_cgroups("shellwego/x", system=system))
        assert seen is not None
        assert seen.running

    @pytest.mark.parametrize(
        ("status", "killed", "reason"),
        [
            ("3", False, ExitReason.EXITED),
            ("137", True, ExitReason.OUT_OF_MEMORY),
            ("137", False, ExitReason.SIGNALLED),
            (None, False, ExitReason.UNKNOWN),
            (None, True, ExitReason.OUT_OF_MEMORY),
            ("0", True, ExitReason.EXITED),
        ],
    )
    def test_ends(self, bundle: Bundle, system: Path, status: str | None, killed: bool, reason: ExitReason) -> None:
        self.record(bundle, MISSING)
        if status is not None:
            bundle.exit_file.write_text(status)
        if killed:
            out_of_memory(system)
        seen = look_at(bundle, find_cgroups("shellwego/x", system=system))
        assert seen is not None
        assert seen.exit is not None
        assert (seen.running, seen.exit.reason) == (False, reason)

    def test_a_start_that_was_cut_off_is_no_running_app(self, bundle: Bundle, system: Path) -> None:
        seen = look_at(bundle, find_cgroups("shellwego/x", system=system))
        assert seen is not None
        assert seen.exit is not None
        assert (seen.running, seen.exit.reason) == (False, ExitReason.UNKNOWN)


def test_the_family_of_a_command_inside() -> None:
    table = """UID       PID       PPID      PGID      C         TTY       STIME     TIME      CMD
0         1         0         1         0         ?         06:53     0s        sleep
0         8         0         8         1         ?         06:53     0s        sh
0         9         8         8         0         ?         06:53     0s        sleep
0         10        9         10        0         ?         06:53     0s        sleep
"""
    assert _family(table, 8) == [8, 9, 10]
    assert _family(table, 77) == []
