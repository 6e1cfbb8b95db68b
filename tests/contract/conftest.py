"""What the suites of one port share: the proxy's tests a world with an edge, the runtimes' an image and real sandboxes.

The suites of other ports have a `world` of their own, which hides the proxy's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests import sandboxes
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


@pytest.fixture(scope="session")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sandboxes.make_busybox(tmp_path_factory.mktemp("image") / "rootfs")


@pytest.fixture(params=sandboxes.REAL)
async def real(request: pytest.FixtureRequest, tmp_path: Path, rootfs: Path) -> AsyncIterator[sandboxes.World]:
    before = sandboxes.fingerprint(rootfs)
    async with sandboxes.sandbox_world(request.param, tmp_path, rootfs) as world:
        yield world
    assert sandboxes.fingerprint(rootfs) == before, "an image that others share was written to"
