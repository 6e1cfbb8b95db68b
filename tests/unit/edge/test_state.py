from __future__ import annotations

from pathlib import Path

import pytest

from shellwego.edge.state import SavedRoutes, load_routes, save_routes
from shellwego.protocol.messages import Route, RouteServer

SAVED = SavedRoutes(
    cloud="cld_x",
    domain="localhost",
    generation=7,
    routes=[
        Route(
            app="app_a",
            app_name="a",
            organisation="org_a",
            hosts=["a.localhost"],
            servers=[RouteServer(instance="ins_a", address="100.96.0.3", port=8080)],
        )
    ],
)


async def test_routes_are_there_again(tmp_path: Path) -> None:
    await save_routes(tmp_path / "routes.json", SAVED)
    assert load_routes(tmp_path / "routes.json") == SAVED


@pytest.mark.parametrize("place", [b"100.96.0.3", b"a.localhost", b"routes"])
async def test_a_flipped_bit_leads_nobody_to_a_stranger(tmp_path: Path, place: bytes) -> None:
    """`100.96.0.3` becomes `100.96.0.7`, another tenant's, by one bit."""
    path = tmp_path / "routes.json"
    await save_routes(path, SAVED)
    content = bytearray(path.read_bytes())
    content[content.index(place) + len(place) - 1] ^= 4
    path.write_bytes(content)
    assert load_routes(path) == SavedRoutes()
    assert path.with_name("routes.json.unreadable").exists()
