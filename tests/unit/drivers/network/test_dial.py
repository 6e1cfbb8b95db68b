"""A health check dials the namespace that there is now, whatever became of it meanwhile."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path
from typing import Any

from shellwego.drivers.network.dial import Sockets


class SlowThread:
    """Visits end when the test says so, in whatever namespace (a file, here) they began."""

    def __init__(self) -> None:
        self.visits: asyncio.Queue[asyncio.Event] = asyncio.Queue()
        self.opened: dict[int, dict[int, int]] = {}

    async def run(self, namespace: Path, work: Any) -> tuple[int, list[int]]:
        inode = namespace.stat().st_ino
        end = asyncio.Event()
        self.visits.put_nowait(end)
        await end.wait()
        made = [socket.socket().detach() for _ in range(3)]
        self.opened.setdefault(inode, {}).update({os.fstat(descriptor).st_ino: descriptor for descriptor in made})
        return inode, made

    def still_open(self, inode: int) -> list[int]:
        return [number for socket, number in self.opened.get(inode, {}).items() if _is_open(number, socket)]


def _is_open(descriptor: int, inode: int) -> bool:
    """Whether it is still that socket: a number is used again."""
    try:
        return os.fstat(descriptor).st_ino == inode
    except OSError:
        return False


async def test_sockets_of_a_namespace_that_went_during_the_visit_are_not_kept(tmp_path: Path) -> None:
    """Or thirty health checks in a row would dial a network that is gone, and healthy instances lose their traffic."""
    namespace, thread = tmp_path / "net", SlowThread()
    namespace.touch()
    old = namespace.stat().st_ino
    sockets = Sockets(namespace, thread)  # type: ignore[arg-type]
    one = asyncio.ensure_future(sockets.take())
    first = await thread.visits.get()
    (tmp_path / "new").touch()  # Before the old one goes: its inode must be another.
    (tmp_path / "new").rename(namespace)
    new = namespace.stat().st_ino
    two = asyncio.ensure_future(sockets.take())
    second = await thread.visits.get()
    first.set()
    second.set()
    (await one).close()
    assert thread.still_open(old) == []
    with await two, await sockets.take() as spare:
        assert spare.fileno() in thread.opened[new].values()
    namespace.unlink()
    sockets.drop()
    assert thread.still_open(new) == []


async def test_a_visit_to_what_is_being_removed_leaves_nothing_open(tmp_path: Path) -> None:
    """An open socket would keep the network of a cloud alive that was uninstalled."""
    namespace, thread = tmp_path / "net", SlowThread()
    namespace.touch()
    inode = namespace.stat().st_ino
    sockets = Sockets(namespace, thread)  # type: ignore[arg-type]
    one = asyncio.ensure_future(sockets.take())
    visit = await thread.visits.get()
    namespace.unlink()
    sockets.drop()
    visit.set()
    (await one).close()
    assert thread.still_open(inode) == []
