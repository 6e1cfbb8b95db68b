"""What does the agent process consist of?

The agent with the real drivers of this node. `python -m shellwego.processes.agent --data-dir DIR` runs until SIGTERM;
the sandboxes go on running then, and also after a SIGKILL, and the next agent adopts them. `make_drivers` with
`agent.node.stop_everything` is what ends the sandboxes too, for `shellwego up` and for an uninstall.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import structlog

from shellwego.agent.node import Agent, AgentSettings, Drivers
from shellwego.core.errors import ShellWeGoError
from shellwego.processes.child import begin
from shellwego.processes.cloud import Cloud, load_cloud
from shellwego.processes.engines_found import Engines, find_engines
from shellwego.processes.node_parts import make_network, make_runtimes
from shellwego.processes.parts import make_images, make_kms

log = structlog.get_logger()


def make_drivers(cloud: Cloud, engines: Engines) -> Drivers:
    """The drivers of this node, for the agent and for a teardown alike."""
    return Drivers(
        runtimes=make_runtimes(cloud, engines),
        network=make_network(cloud, engines),
        images=make_images(cloud),
        kms=make_kms(cloud),
    )


def agent_settings(cloud: Cloud) -> AgentSettings:
    return AgentSettings(directory=cloud.agent, control_socket=cloud.control_socket)


async def run_agent(settings: AgentSettings, drivers: Drivers) -> None:
    """Run until cancelled. Raises Conflict while another agent works on the directory."""
    await Agent(settings, drivers).run()


async def _until_signalled(cloud: Cloud) -> None:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await run_agent(agent_settings(cloud), make_drivers(cloud, find_engines()))
    log.info("agent.stopped")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="shellwego agent", description="Run what the server assigns to this node.")
    parser.add_argument("--data-dir", type=Path, required=True, help="where this cloud keeps everything")
    given = parser.parse_args(arguments)
    try:
        cloud = load_cloud(given.data_dir.absolute())
        cloud.make_directories()
        begin("agent", cloud.logs)
        # asyncio's own loop: uvloop forks where this one vforks, and a hundred starts took twice as long with it.
        asyncio.run(_until_signalled(cloud))
    except ShellWeGoError as error:
        log.error("agent.refused", code=error.code, problem=str(error))
        sys.exit(f"shellwego agent: {error}")


if __name__ == "__main__":
    main()
