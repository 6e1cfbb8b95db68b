"""Who hears of its end?"""

from __future__ import annotations

import asyncio
import contextlib

from shellwego.kit.supervise import apart


async def test_whoever_is_told_to_end_while_a_neighbour_fails_ends() -> None:
    """An agent whose server ended in the same moment stayed: linked to the next server, and doing nothing."""
    gone = asyncio.Event()

    async def listen() -> None:
        await gone.wait()
        raise ConnectionError("the server is gone")

    async def converse() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(listen(), name="listen")

    async def stay_connected() -> None:
        while True:
            with contextlib.suppress(ExceptionGroup):
                await apart(converse(), name="conversation")
            gone.clear()

    staying = asyncio.create_task(stay_connected(), name="staying")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    gone.set()  # The connection ends of itself: it is made again.
    for _ in range(5):
        await asyncio.sleep(0)
    assert not staying.done()
    gone.set()
    staying.cancel()
    done, _ = await asyncio.wait([staying], timeout=5)
    assert done
    assert staying.cancelled()
