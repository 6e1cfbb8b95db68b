"""What users read of their instances is true, and safe to show."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.agent.factories import CRASHED, NOW, record, spec

from shellwego.agent import metrics
from shellwego.agent.metrics import look_at_data, read_capacity, reserved_mib
from shellwego.agent.plan import Record
from shellwego.agent.report import Activity, Phase, describe, describe_removal, printable
from shellwego.core.instances import ExitReason, ExitStatus

BUSY = Activity(Phase.STARTING)
PULL = Activity(Phase.PULLING, "pulling 34 of 120 MB")


@pytest.mark.parametrize(
    ("known", "activity", "state", "words"),
    [
        pytest.param(None, None, "pending", "", id="nothing yet"),
        pytest.param(None, PULL, "pulling", "34 of 120", id="its image is on the way"),
        pytest.param(record(), BUSY, "starting", "", id="being started"),
        pytest.param(record(run=NOW), None, "starting", "refused", id="runs, not healthy yet, and why"),
        pytest.param(record(run=NOW, healthy_since=NOW), None, "healthy", "", id="healthy"),
        pytest.param(record(run=NOW, unhealthy="no answer"), None, "unhealthy", "no answer", id="unhealthy"),
        pytest.param(
            record(run=NOW, healthy_since=NOW),
            Activity(Phase.ENDING, "a restart was asked for"),
            "starting",
            "asked for",
            id="loses its traffic before its signal",
        ),
        pytest.param(record(failures=1, exit=CRASHED), None, "backoff", "status 1; next start after", id="waits"),
        pytest.param(record(failures=5, exit=CRASHED), None, "crash_loop", "5 failures", id="again and again"),
        pytest.param(record(failures=5, exit=CRASHED), BUSY, "crash_loop", "5 failures", id="a loop while it starts"),
        pytest.param(
            record(run=NOW, failures=5, exit=CRASHED), None, "crash_loop", "started again", id="a loop until healthy"
        ),
        pytest.param(
            record(run=NOW, failures=5, exit=CRASHED, healthy_since=NOW), None, "healthy", "status 1", id="recovered"
        ),
        pytest.param(record(failures=1, exit=CRASHED), PULL, "pulling", "34", id="pulled again after a failure"),
    ],
)
def test_states(known: Record | None, activity: Activity | None, state: str, words: str) -> None:
    report = describe(spec("b"), known, activity, check_detail="refused", last_lines=["x"])
    assert report.state == state
    assert words in report.reason
    assert bool(report.last_lines) == (state in {"backoff", "crash_loop", "unhealthy"})


def test_exit_codes_are_told_only_where_they_mean_something() -> None:
    assert describe(spec("b"), record(failures=1, exit=CRASHED), None).exit_code == 1
    oom = ExitStatus(ExitReason.OUT_OF_MEMORY)
    report = describe(spec("b"), record(failures=1, exit=oom), None)
    assert (report.exit_reason, report.exit_code) == ("out_of_memory", None)


def test_removals() -> None:
    assert describe_removal("x", gone=False, detail="still there").state == "stopping"
    assert describe_removal("x", gone=True).state == "stopped"


@given(st.text(), st.integers(10, 50))
def test_no_text_can_play_with_a_terminal(text: str, characters: int) -> None:
    """A log line that clears the operator's screen or fakes a prompt is shown as what it is."""
    shown = printable(text, characters)
    assert shown.isprintable() or shown == ""
    assert "\n" not in shown


def test_capacity_leaves_the_platform_its_share(tmp_path: Path) -> None:
    meminfo, limit, none = tmp_path / "meminfo", tmp_path / "limit", tmp_path / "max"
    meminfo.write_text("MemFree: 1 kB\nMemTotal:       16777216 kB\n")
    limit.write_text(f"{4096 << 20}\n")
    none.write_text("max\n")
    data = look_at_data(tmp_path)
    assert read_capacity(data, meminfo=meminfo, limits=[none, tmp_path / "absent"]).memory_mib == 16384 - 1638
    capacity = read_capacity(data, meminfo=meminfo, limits=[limit])
    assert capacity.memory_mib == 4096 - 409
    assert 0 < capacity.disk_free_mib <= capacity.disk_total_mib
    assert [reserved_mib(mib) for mib in (512, 8192, 1 << 20)] == [256, 819, 2048]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, None),
        ({"f_bavail": 9}, "91 % full"),
        ({"f_favail": 9}, "inodes"),
        ({"f_flag": 1}, "read-only"),
    ],
)
def test_a_disk_that_needs_a_hand_is_named(
    change: dict[str, int], words: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    disk = {"f_bavail": 50, "f_blocks": 100, "f_frsize": 1 << 20, "f_files": 100, "f_favail": 50, "f_flag": 0, **change}
    monkeypatch.setattr(metrics.os, "statvfs", lambda _: SimpleNamespace(**disk))
    data = look_at_data(tmp_path)
    said = data.warnings()
    assert len(said) == (words is not None)
    assert words is None or words in said[0]
    assert bool(data.fault) == (words == "read-only"), "a disk that is nearly full takes instances"


def test_a_disk_that_can_not_be_reached_is_told_and_has_no_room(tmp_path: Path) -> None:
    data = look_at_data(tmp_path / "gone")
    assert (
        data.warnings()
        == [data.fault]
        == ["The data directory can't be reached: No such file or directory. Check its disk."]
    )
    assert (read_capacity(data).disk_total_mib, data.used_share) == (0, 0.0)
