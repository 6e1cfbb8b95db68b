"""What the suites of one port share.

The proxy's tests share a world with an edge (other ports' suites have a `world` of their own, which hides it), those of
runtimes an image and real sandboxes, those of networks a data plane and services of the host's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from tests import sandboxes
from tests.contract.edge_world import World, a_world
from tests.contract.network_probes import Inside
from tests.contract.network_world import a_data_plane, serve_on_host

from shellwego.drivers.network.bridge import BridgeNetwork


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


@pytest.fixture
def inside() -> Iterator[Callable[[Path], Inside]]:
    """Tenants' programs, ended before the network is taken away."""
    made: list[Inside] = []

    def make(namespace: Path) -> Inside:
        made.append(Inside(namespace))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def host_server() -> Iterator[tuple[str, int]]:
    """A service of the host's that nobody is allowed to reach: its address and port."""
    with serve_on_host() as served:
        yield served


@pytest.fixture
def allowed_server() -> Iterator[tuple[str, int]]:
    """One that `data_plane` allows."""
    with serve_on_host() as served:
        yield served


@pytest.fixture
async def data_plane(tmp_path: Path, allowed_server: tuple[str, int]) -> AsyncIterator[BridgeNetwork]:
    async with a_data_plane(tmp_path, allowed_server) as made:
        yield made
