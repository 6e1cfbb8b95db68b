"""When does the server hear of what happened on a node?"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

from tests.integration.virtual_time import VirtualTimeLoop

from shellwego.agent.link import REPORT_GAP_SECONDS, Link
from shellwego.protocol.channel import Channel
from shellwego.protocol.messages import Report


class Heard:
    """A channel that notes when something was sent."""

    def __init__(self) -> None:
        self.at: list[float] = []

    async def send(self, _message: object) -> None:
        self.at.append(asyncio.get_running_loop().time())


def play(changes: list[float]) -> list[float]:
    """When reports go out, if something changes at these moments."""
    loop, heard, unused = VirtualTimeLoop(), Heard(), cast("Any", None)

    async def story() -> None:
        link = Link(
            Path("/none"), hello=unused, heartbeat=unused, report=lambda: Report(generation=1, instances=[]),
            on_welcome=unused, on_assignment=unused, serve_stream=unused,
        )  # fmt: skip
        began = loop.time()
        telling = asyncio.create_task(link._tell(cast("Channel", heard)), name="telling")
        for moment in changes:
            await asyncio.sleep(began + moment - loop.time())
            link.changed()
        await asyncio.sleep(1)
        telling.cancel()
        heard.at[:] = [round(at - began, 3) for at in heard.at]

    try:
        loop.run_until_complete(story())
    finally:
        loop.close()
    return heard.at


def test_what_happens_after_a_quiet_moment_is_told_at_once() -> None:
    """A deployment waits for it that its app is healthy."""
    assert play([2.0, 3.0]) == [0.0, 2.0, 3.0]


def test_what_happens_at_once_is_told_together() -> None:
    assert play([2.0, 2.001, 2.002]) == [0.0, 2.0, round(2.0 + REPORT_GAP_SECONDS, 3)]
