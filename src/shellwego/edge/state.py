"""What does the edge know when it starts and the server is away?

The routes that were last in force, and of which cloud they were. Nothing secret, one file, replaced whole. What
HAProxy holds is asked of HAProxy, never remembered here.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import msgspec
import structlog

from shellwego.kit.faults import fault_point, reach
from shellwego.kit.files import replace_file, sealed, unsealed
from shellwego.protocol.messages import Route

log = structlog.get_logger()

SAVE = fault_point("edge.state.save")


class SavedRoutes(msgspec.Struct, frozen=True, kw_only=True):
    """`routes` are those that were accepted, so a refused one can't come back from the disk."""

    cloud: str = ""
    domain: str = ""
    generation: int = 0
    routes: list[Route] = []


def load_routes(path: Path) -> SavedRoutes:
    """
    What was saved; nothing at all if there is no file, or one that is damaged (it is kept aside): with a bit of an
    address flipped, one app's visitors would meet another's.
    """
    try:
        return msgspec.json.decode(unsealed(path.read_bytes()), type=SavedRoutes)
    except FileNotFoundError:
        return SavedRoutes()
    except ValueError as error:  # The check's, or msgspec's.
        log.error("edge.state_unreadable", path=str(path), error=str(error))
        with contextlib.suppress(OSError):
            path.replace(path.with_name(path.name + ".unreadable"))
        return SavedRoutes()


async def save_routes(path: Path, saved: SavedRoutes) -> None:
    """Make it last. Raises OSError."""
    await reach(SAVE)
    # Thousands of routes and two fsyncs: not on the loop that answers for traffic.
    await asyncio.to_thread(lambda: replace_file(path, sealed(msgspec.json.encode(saved))))
