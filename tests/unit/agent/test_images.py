"""When are old images cleaned up? Too seldom and deploys fill the disk; too often and every rollback pulls again."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.integration.agent_world import SomeImages
from tests.integration.virtual_time import VirtualTimeLoop

from shellwego.agent.reconcilers.images import MANY_PULLS, Images


def play(directory: Path, pulls: int, *, seconds: float, used: float = 0.5) -> int:
    """How many clean-ups there were after so many pulls in so many seconds, looked for every five minutes."""

    async def story() -> int:
        store = SomeImages(directory)
        async with asyncio.TaskGroup() as tasks:
            images = Images(tasks, store)
            await images.collect_garbage([], [], disk_used_share=used)
            for number in range(pulls):
                await images.ensure(f"registry.test/app:{number}", lambda _: None)
            for _ in range(int(seconds // 300)):
                await asyncio.sleep(300)
                await images.collect_garbage([], [], disk_used_share=used)
        return len(store.collected)

    loop = VirtualTimeLoop()
    try:
        return loop.run_until_complete(story())
    finally:
        loop.close()


def test_a_quiet_node_cleans_up_daily(tmp_path: Path) -> None:
    assert play(tmp_path, 3, seconds=86_000) == 0
    assert play(tmp_path, 3, seconds=86_700) == 1


def test_a_full_disk_or_many_new_images_are_cleaned_up_soon_and_once(tmp_path: Path) -> None:
    """A day of deploys must not wait for its end."""
    assert play(tmp_path, 3, seconds=600, used=0.9) == 1
    assert play(tmp_path, MANY_PULLS, seconds=300) == 0
    assert play(tmp_path, MANY_PULLS, seconds=3600) == 1
