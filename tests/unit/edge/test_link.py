"""Does an edge come to serve what the server wants, in whatever order and however often it is told?"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from shellwego.edge.acceptance import Acceptance, accept_all, accept_changes
from shellwego.edge.link import ServerLink
from shellwego.protocol.channel import Channel
from shellwego.protocol.messages import (
    EdgeHello,
    EdgeReport,
    Message,
    Route,
    Routes,
    RoutesChanged,
    RoutesMissed,
    Welcome,
)


def route(app: str, host: str) -> Route:
    return Route(app=app, app_name=app, organisation="o", hosts=[host], servers=[])


class Edge:
    """The link of a real edge to a server that this test plays; what it takes over is accepted as the edge does it."""

    def __init__(self) -> None:
        self.link: ServerLink
        self.server: Channel
        self.acceptance = Acceptance()
        self.taken: list[int] = []

    def want(self, message: Routes | RoutesChanged, *, cloud: str) -> None:
        accept = accept_all if isinstance(message, Routes) else accept_changes
        self.acceptance = accept(message.routes, message.gone, self.acceptance)
        self.taken.append(message.generation)

    @property
    def served(self) -> dict[str, str]:
        return {app: entry.route.hosts[0] for app, entry in self.acceptance.accepted.items()}

    async def tell(self, *messages: Message) -> None:
        for message in messages:
            await self.server.send(message)

    async def hear(self) -> Message:
        async with asyncio.timeout(10):
            return await self.server.receive()


@pytest.fixture
async def edge(tmp_path: Path) -> AsyncIterator[Edge]:
    made, connected = Edge(), asyncio.Event()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        made.server = Channel(reader, writer)
        connected.set()

    path = tmp_path / "control.sock"
    async with await asyncio.start_unix_server(accept, path):
        made.link = ServerLink(path, edge="e", version="0", want=made.want, cloud=lambda: "")
        talk = asyncio.create_task(made.link.talk())
        await connected.wait()
        assert isinstance(await made.hear(), EdgeHello)
        await made.tell(Welcome(cloud="c", heartbeat_seconds=5.0))
        yield made
        await made.server.close()
        await talk


def whole(generation: int, *routes: Route, gone: Sequence[str] = ()) -> Routes:
    return Routes(generation=generation, domain="x.test", routes=list(routes), gone=list(gone))


def changed(generation: int, *routes: Route, since: int | None = None, gone: Sequence[str] = ()) -> RoutesChanged:
    since = generation - 1 if since is None else since
    return RoutesChanged(since=since, generation=generation, routes=list(routes), gone=list(gone))


async def until_taken(edge: Edge, *generations: int) -> None:
    """Until the edge has come to the last of these."""
    async with asyncio.timeout(10):
        while edge.taken[-1:] != [generations[-1]]:  # noqa: ASYNC110 - the edge sets no event
            await asyncio.sleep(0.005)
    assert edge.taken == list(generations)


async def test_changes_before_all_or_after_a_gap_are_asked_for_anew(edge: Edge) -> None:
    await edge.tell(changed(5, route("a", "a.test")))
    assert await edge.hear() == RoutesMissed(generation=0)
    await edge.tell(whole(5, route("a", "a.test")), changed(7, route("c", "c.test")))
    assert await edge.hear() == RoutesMissed(generation=5)
    assert edge.served == {"a": "a.test"}, "half a change is none"
    await edge.tell(whole(7, route("a", "a.test"), route("b", "b.test"), route("c", "c.test")))
    await until_taken(edge, 5, 7)
    assert edge.served == {"a": "a.test", "b": "b.test", "c": "c.test"}


async def test_what_was_told_before_is_told_in_vain(edge: Edge) -> None:
    """Duplicates and stragglers: the address in an older message may be somebody else's by now."""
    first, second = whole(5, route("a", "old.test")), changed(6, route("a", "new.test"))
    await edge.tell(first, second, second, first, second, changed(6, since=5, gone=["a"]), changed(7))
    await until_taken(edge, 5, 6, 7)
    assert edge.served == {"a": "new.test"}


@pytest.mark.parametrize("seed", range(12))
async def test_shuffled_doubled_and_lost_messages_end_in_what_the_server_wants(edge: Edge, seed: int) -> None:
    chance = random.Random(seed)
    wanted: dict[str, str] = {}
    gone: set[str] = set()
    messages: list[Message] = []
    for generation in range(2, 30):
        app = f"app{chance.randrange(6)}"
        if app in wanted and chance.random() < 0.3:
            del wanted[app]
            gone.add(app)
            messages.append(changed(generation, gone=[app]))
        else:
            wanted[app] = f"{app}-{generation}.test"
            gone.discard(app)
            messages.append(changed(generation, route(app, wanted[app])))
    messages += chance.sample(messages, 10)
    for place in range(len(messages)):  # Each within a few places of where it was.
        other = min(len(messages) - 1, place + chance.randrange(4))
        messages[place], messages[other] = messages[other], messages[place]
    del messages[chance.randrange(len(messages))]

    async def answer() -> None:
        """As the server does: all that there is now, to whoever missed something."""
        while True:
            if isinstance(await edge.server.receive(), RoutesMissed):
                await edge.tell(whole(29, *(route(*each) for each in wanted.items()), gone=sorted(gone)))

    await edge.tell(whole(1), *messages)
    answering = asyncio.create_task(answer())
    await edge.tell(changed(30, since=29))  # Whoever has missed something learns it from the next change.
    try:
        async with asyncio.timeout(10):
            while edge.taken[-1:] not in ([29], [30]):  # noqa: ASYNC110 - the edge sets no event
                await asyncio.sleep(0.01)
    finally:
        answering.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await answering
    assert edge.served == wanted
    assert edge.taken == sorted(set(edge.taken)), "each once, and never back"


async def test_a_report_on_an_older_generation_still_counts_and_another_servers_does_not(edge: Edge) -> None:
    """Changes may follow each other faster than they are reported; what drained must not wait for a pause."""
    edge.link.report(EdgeReport(generation=3, drained=["theirs"]))
    await edge.tell(whole(7), changed(8))
    report = EdgeReport(generation=7, drained=["ins_a"])
    await until_taken(edge, 7, 8)
    edge.link.report(report)
    assert await edge.hear() == report
