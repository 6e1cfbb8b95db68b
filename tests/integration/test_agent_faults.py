"""An agent in a process of its own, killed at any step, on a node whose kernel outlives it on disk."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.integration.agent_world import DiskRuntime, Listener
from tests.integration.talking_server import TalkingServer
from tests.unit.agent.factories import assignment, ins, spec

from shellwego.agent.logs import CURRENT
from shellwego.kit.faults import declared_points
from shellwego.protocol.channel import ChannelClosed
from shellwego.protocol.messages import ExecRequest

B, C = ins("b"), ins("c")
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
