"""What the proxy's tests share. The suites of other ports have a `world` of their own, which hides this one."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.contract.edge_world import World, a_world


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with a_world() as made:
        yield made


@pytest.fixture
async def serving(world: World) -> World:
    """An app of two instances, served under the host of `edge_world`."""
    await world.start_edge()
    servers = [await world.start_app("ins_a"), await world.start_app("ins_b")]
    await world.server.serve(world.route("shop", *servers))
    return world
