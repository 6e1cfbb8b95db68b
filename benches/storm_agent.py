"""
A node on which nothing is real but its agent: `python -m benches.storm_agent DIRECTORY SOCKET SWITCH`. What it is told
to run runs well until the file SWITCH appears. From then on all of it has ended, and ends whenever it is started again.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path

from tests.integration.model_world import CursedRuntime, Edge, Images, Network

from shellwego.agent.node import Agent, AgentSettings, Drivers
from shellwego.drivers.images.port import StoredImage
from shellwego.drivers.kms.fake import FakeKms
from shellwego.kit.supervise import forever

LOOK_SECONDS = 0.1


class OneImage(Images):
    """Whatever is asked for is there, and is what the network of the model takes for a good server."""

    async def ensure(self, reference: str, **_options: object) -> StoredImage:
        return await super().ensure("registry/good:1")


async def main(directory: Path, socket: Path, switch: Path) -> None:
    runtime, network = CursedRuntime(), Network()
    network.runtime = runtime
    agent = Agent(
        AgentSettings(directory=directory, control_socket=socket, name="storm"),
        Drivers({"gvisor": runtime}, network, OneImage(), FakeKms()),
    )

    async def curse() -> None:
        while not switch.exists():  # noqa: ASYNC110 - a file sets no event
            await asyncio.sleep(LOOK_SECONDS)
        runtime.curse()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(agent.run())
        tasks.create_task(forever("edge", Edge(socket, lambda: None).once, every_seconds=0.5))
        tasks.create_task(curse())


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(*map(Path, sys.argv[1:4])))
