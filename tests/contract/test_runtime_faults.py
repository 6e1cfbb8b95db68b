"""What if the agent dies, or a step fails, in the middle of starting or stopping a sandbox?

Every fault point of the driver is taken once, by a process of its own that ends there as SIGKILL would end it. The next
agent must then be able to run the sandbox, or to remove it, and nothing may be left. The points are read from the code,
so a new step is tested without anybody's thinking of it.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.sandboxes import World, sandbox_world

from shellwego.kit import faults
from shellwego.kit.faults import InjectedFault, declared_points

pytestmark = pytest.mark.root

STARTS = sorted(point for point in declared_points() if point.startswith("runtime.start."))
STOPS = sorted(point for point in declared_points() if point.startswith("runtime.stop."))

AGENT = """
import asyncio, sys
from pathlib import Path
from tests.sandboxes import World, make_driver

kind, cloud, scratch, rootfs, namespace, id, stops = sys.argv[1:]
world = World(kind, cloud, Path(scratch), Path(rootfs), Path(namespace), make_driver(kind, Path(scratch), cloud))

async def main():
    await world.driver.ensure_running(world.workload(id=id))
    if stops == "stops":
        await world.driver.ensure_absent(id, grace_seconds=5)

asyncio.run(main())
"""


@pytest.fixture(params=["gvisor", "runc"])
async def world(request: pytest.FixtureRequest, tmp_path: Path, rootfs: Path) -> AsyncIterator[World]:
    async with sandbox_world(request.param, tmp_path, rootfs) as world:
        yield world


async def die_at(world: World, id: str, point: str, *, stops: bool) -> None:
    """An agent of its own gets as far as the point and is no more."""
    arguments = (world.kind, world.cloud, world.scratch, world.rootfs, world.namespace, id, "stops" if stops else "")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        AGENT,
        *map(str, arguments),
        cwd=Path(__file__).parents[2],
        env={"SHELLWEGO_FAULTS": f"{point}=exit", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        stderr=subprocess.PIPE,
    )
    _, stderr = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 137, stderr.decode()


@pytest.mark.parametrize("point", STARTS)
async def test_a_start_that_was_cut_off_is_made_whole(world: World, point: str) -> None:
    workload = world.workload()
    await die_at(world, workload.id, point, stops=False)
    for seen in await world.driver.observe():
        assert seen.id == workload.id
    await world.driver.ensure_running(workload)
    found = await world.find(workload.id)
    assert found is not None
    assert found.running
    session = await world.driver.exec(workload.id, ("true",), tty=False, env={})
    assert await asyncio.wait_for(session.wait(), 20) == 0
    await session.close()
    monitors = Path(f"/sys/fs/cgroup/pids/shellwego/{world.cloud}/monitors/cgroup.procs")
    assert len(monitors.read_text().split()) == 1, "the first attempt's monitor is still there"


@pytest.mark.parametrize("point", STARTS)
async def test_a_start_that_was_cut_off_can_be_removed(world: World, point: str) -> None:
    workload = world.workload()
    await die_at(world, workload.id, point, stops=False)
    await world.driver.ensure_absent(workload.id, grace_seconds=0)
    assert await world.driver.observe() == []


@pytest.mark.parametrize("point", STOPS)
async def test_a_stop_that_was_cut_off_is_finished(world: World, point: str) -> None:
    workload = world.workload()
    await die_at(world, workload.id, point, stops=True)
    await world.driver.ensure_absent(workload.id, grace_seconds=0)
    assert await world.driver.observe() == []


@pytest.mark.parametrize("point", STARTS)
async def test_a_step_that_fails_leaves_nothing(world: World, point: str, monkeypatch: pytest.MonkeyPatch) -> None:
    workload = world.workload()
    monkeypatch.setitem(faults._armed, point, "fail")
    with pytest.raises(InjectedFault):
        await world.driver.ensure_running(workload)
    assert await world.driver.observe() == []
    monkeypatch.undo()
    await world.driver.ensure_running(workload)
