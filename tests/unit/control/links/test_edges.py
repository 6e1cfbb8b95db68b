"""Is an edge told all that it needs, and no more?"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from shellwego.control.links.edges import EdgeLinks
from shellwego.protocol.channel import Channel, ChannelClosed
from shellwego.protocol.messages import (
    EdgeHello,
    Message,
    Route,
    Routes,
    RoutesChanged,
    RoutesMissed,
    Welcome,
)


def route(app: str, *, status: str = "running") -> Route:
    return Route(app=app, app_name=app, organisation="o", hosts=[f"{app}.test"], servers=[], status=status)


def routes(generation: int, *there: Route) -> Routes:
    return Routes(generation=generation, domain="test", routes=list(there))


@asynccontextmanager
async def connected(links: EdgeLinks, *, protocol: int = 2) -> AsyncIterator[Channel]:
    ours, theirs = socket.socketpair()
    server = Channel(*await asyncio.open_unix_connection(sock=ours))
    edge = Channel(*await asyncio.open_unix_connection(sock=theirs))
    serving = asyncio.create_task(links.serve(server, EdgeHello(edge="e", version="0", protocol=protocol)))
    assert isinstance(await hear(edge), Welcome)
    try:
        yield edge
    finally:
        await edge.close()
        with pytest.raises(ChannelClosed):
            await serving
        await server.close()


async def hear(edge: Channel) -> Message:
    async with asyncio.timeout(10):
        return await edge.receive()


@pytest.fixture
def links() -> EdgeLinks:
    store: Any = None  # Only reports are written.
    return EdgeLinks(store, cloud="c")


async def test_all_at_first_and_then_what_changes(links: EdgeLinks) -> None:
    first = routes(1, route("a"))
    links.publish(first)
    async with connected(links) as edge:
        assert await hear(edge) == first
        changes = RoutesChanged(since=1, generation=2, routes=[route("b")])
        links.publish(routes(2, route("a"), route("b")), changes)
        assert await hear(edge) == changes
        whole = routes(3, route("b"))
        links.publish(whole)
        assert await hear(edge) == whole


async def test_a_slow_edge_is_told_each_app_once_as_it_is_now(links: EdgeLinks) -> None:
    """Or a busy cloud would fill the server's memory for an edge that hangs."""
    links.publish(routes(1))
    async with connected(links) as edge:
        await hear(edge)
        back = route("back", status="crashed")
        links.publish(routes(2, route("a")), RoutesChanged(since=1, generation=2, routes=[route("a")]))
        links.publish(routes(3), RoutesChanged(since=2, generation=3, gone=["a", "back"]))
        links.publish(routes(4, back), RoutesChanged(since=3, generation=4, routes=[back]))
        assert await hear(edge) == RoutesChanged(since=1, generation=4, routes=[back], gone=["a"])


async def test_an_edge_that_missed_something_is_told_all(links: EdgeLinks) -> None:
    links.publish(routes(7, route("a")))
    async with connected(links) as edge:
        whole = await hear(edge)
        await edge.send(RoutesMissed(generation=5))
        assert await hear(edge) == whole


async def test_an_edge_of_an_older_version_is_always_told_all(links: EdgeLinks) -> None:
    links.publish(routes(1))
    async with connected(links, protocol=1) as edge:
        await hear(edge)
        whole = routes(2, route("a"))
        links.publish(whole, RoutesChanged(since=1, generation=2, routes=[route("a")]))
        assert await hear(edge) == whole
