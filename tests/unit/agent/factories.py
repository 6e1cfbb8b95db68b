"""Specs, sandboxes and records, as short as a table of cases needs them."""

from __future__ import annotations

from typing import Any

import msgspec

from shellwego.agent.plan import Goal, Record
from shellwego.core.ids import InstanceId
from shellwego.core.instances import ExitReason, ExitStatus
from shellwego.drivers.runtime.port import Observed
from shellwego.protocol.messages import Assignment, HealthSpec, InstanceSpec, Removal

NOW = 1_000_000.0
CRASHED = ExitStatus(ExitReason.EXITED, 1)


def ins(name: str) -> InstanceId:
    """An instance's id that can be told from others by its first letter."""
    return InstanceId("ins_" + (name + "a" * 20)[:20])


def spec(name: str = "b", **changes: Any) -> InstanceSpec:
    base = InstanceSpec(
        id=ins(name),
        organisation="org_" + "a" * 20,
        app="app_" + "a" * 20,
        app_name="hello",
        release="rel_" + "a" * 20,
        release_label="v1",
        process="web",
        image="registry.test/hello@sha256:" + "0" * 64,
        command=["serve"],
        env={"COLOUR": "blue"},
        port=8080,
        health=HealthSpec(kind="tcp", interval_seconds=0.2, timeout_seconds=0.5, start_period_seconds=2, retries=2),
        memory_mib=64,
        cpu_millis=100,
        pids=64,
        disk_mib=64,
        runtime="gvisor",
        grace_seconds=1.0,
    )
    return msgspec.structs.replace(base, **changes)


def record(name: str = "b", **changes: Any) -> Record:
    values: dict[str, Any] = {"address": "100.96.0.2", **changes}
    return Record(ins(name), "gvisor", "app_" + "a" * 20, **values)


def running(name: str = "b", started_at: float = NOW - 10) -> Observed:
    return Observed(ins(name), running=True, started_at=started_at)


def ended(name: str = "b", exit: ExitStatus = CRASHED) -> Observed:
    return Observed(ins(name), running=False, started_at=NOW - 10, exit=exit)


def goal(*names: str, absent: tuple[str, ...] = (), retained: tuple[str, ...] = ()) -> Goal:
    return Goal(
        generation=1,
        run=tuple(spec(name) for name in names),
        absent=tuple(Removal(id=ins(name), grace_seconds=3.0) for name in absent),
        retained=tuple(spec(name) for name in retained),
    )


def assignment(generation: int, *run: InstanceSpec, absent: tuple[str, ...] = (), **changes: Any) -> Assignment:
    removals = [Removal(id=id, grace_seconds=0.2) for id in absent]
    return Assignment(generation=generation, run=list(run), absent=removals, **changes)
