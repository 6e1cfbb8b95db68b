"""How does work leave the event loop without outliving its caller?"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """
    Run `work` in a thread. A cancelled caller first waits for it to end, unlike with asyncio.to_thread: a write
    that goes on after its file was closed would hit whatever has that descriptor by then.
    """
    running = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    cancelled: asyncio.CancelledError | None = None
    while not running.done():
        try:
            await asyncio.wait([running])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not running.cancelled():
            running.exception()  # Seen, so that asyncio doesn't report it as lost.
        raise cancelled
    return running.result()
