"""The database is down, stands still, or comes back: what a user of the API sees."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import sys
import threading
import time

import pytest
from tests.e2e.small_disk import small_disk
from tests.integration.conftest import World
from tests.integration.postgres import Postgres
from tests.integration.test_problems import problem

from shellwego.control.store import NotDurable, Store, group_commit, migrate
from shellwego.control.store.engine import sqlite_url
from shellwego.core.errors import DiskFull, Unavailable


@pytest.fixture
def own_server():
    """A server of this test's own, since it is about to be hurt."""
    server = Postgres()
    server.sql("CREATE DATABASE swg")
    yield server
    server.thaw()
    server.close()


@pytest.fixture
def database_url(own_server):
    """Overrides the shared one: these tests are about PostgreSQL."""
    url = own_server.url("swg")
    asyncio.run(migrate(url))
    return url


async def test_a_database_that_is_down_is_503_with_retry_after_and_back_at_once(world: World, member, own_server):
    own_server.stop()
    for answer in (
        await member.get("/v1/apps"),
        await member.post("/v1/apps", json={"name": "blog"}),
        await member.post("/v1/auth/login", json={"email": "a@b.test", "password": "x"}),
    ):
        assert problem(answer, 503, "unavailable")["retryable"] is True
        assert int(answer.headers["retry-after"]) > 0
    health = await member.get("/health")
    assert health.status_code == 503
    parts = {part["name"]: part["ok"] for part in health.json()["parts"]}
    assert parts == {"database": False, "bus": True, "signing key": True, "agents": True}
    own_server.start()
    assert (await member.post("/v1/apps", json={"name": "blog"})).status_code == 201
    assert (await member.get("/health")).status_code == 200


async def test_a_database_that_stands_still_is_told_within_a_limit(world: World, member, own_server):
    """A hung disk under the database must not hang every client for ever."""
    assert (await member.get("/v1/apps")).status_code == 200
    own_server.freeze()
    began = time.monotonic()
    async with asyncio.timeout(60):
        answers = await asyncio.gather(*(member.get("/v1/apps") for _ in range(30)))
    for answer in answers:
        problem(answer, 503, "unavailable")
    assert time.monotonic() - began < 45
    own_server.thaw()
    async with asyncio.timeout(30):
        while (await member.get("/v1/apps")).status_code != 200:  # noqa: ASYNC110 - a database rings no bell
            await asyncio.sleep(0.2)


async def test_a_restarted_database_costs_no_request_its_effect_twice(world: World, member, own_server):
    """A client that repeats with its key through a restart ends with one app per name."""

    async def make(number: int) -> None:
        headers = {"Idempotency-Key": f"key-{number}"}
        async with asyncio.timeout(60):
            while True:
                answer = await member.post("/v1/apps", json={"name": f"app-{number:02}"}, headers=headers)
                if answer.status_code == 201:
                    return
                problem(answer, 503, "unavailable")
                await asyncio.sleep(0.1)

    async def restart() -> None:
        await asyncio.to_thread(own_server.stop)
        await asyncio.to_thread(own_server.start)

    await asyncio.gather(restart(), *(make(number) for number in range(20)))
    names = [app["name"] for app in (await member.get("/v1/apps")).json()["items"]]
    assert names == [f"app-{number:02}" for number in range(20)]


async def test_a_server_that_was_never_there_is_unavailable_too():
    store = Store("postgresql+asyncpg://swg@127.0.0.1:1/swg")
    with pytest.raises(Unavailable):
        async with store.reading():
            pass
    await store.close()


async def test_a_sqlite_file_in_a_missing_directory_is_unavailable(tmp_path):
    store = Store(sqlite_url(tmp_path / "nowhere" / "store.db"))
    with pytest.raises(Unavailable):
        async with store.reading():
            pass
    await store.close()
    async with asyncio.timeout(10):
        # The driver's thread reports its end to this loop, which must still be there.
        while any("_connection_worker" in thread.name for thread in threading.enumerate()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def sqlite_error(words: str, code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(words)
    error.sqlite_errorcode = code
    return error


async def test_a_commit_for_which_there_is_no_room_spoils_no_other(tmp_path, monkeypatch):
    """SQLite has rolled back by itself then; whoever writes next must not meet what is left of it."""
    url = sqlite_url(tmp_path / "store.db")
    await migrate(url)
    store = Store(url)

    def full(connection):
        connection.rollback()
        raise sqlite_error("database or disk is full", sqlite3.SQLITE_FULL)

    for _ in range(3):
        with monkeypatch.context() as patch:
            patch.setattr(group_commit, "commit", full)
            with pytest.raises(DiskFull):
                async with store.writing() as work:
                    await work.emit("something", subject="x")
        async with store.writing() as work:
            await work.emit("something", subject="x")
    await store.close()


_KILLED = """
import asyncio, os, sys
from shellwego.control.store import Store, migrate

async def main():
    await migrate(sys.argv[1])
    async with Store(sys.argv[1]).writing() as work:
        await work.emit("something", subject="x")
    os.kill(os.getpid(), 9)

asyncio.run(main())
"""


@pytest.mark.root
async def test_a_killed_server_reads_its_database_on_a_disk_without_one_free_byte(tmp_path):
    """
    SQLite makes the index of its log anew then. Who asks for the version first keeps it while others come and go;
    otherwise its room would be somebody else's at once.
    """
    with small_disk(tmp_path, size_mib=32) as disk:
        url = sqlite_url(disk.path / "store.db")
        killed = await asyncio.create_subprocess_exec(sys.executable, "-c", _KILLED, url)
        assert await killed.wait() == -signal.SIGKILL
        with disk.kept_full():
            store = Store(url)
            try:
                await store.version()
                await migrate(url)
                async with store.reading() as work:
                    assert [event.kind for event in await work.for_the_cloud().outbox.unpublished()] == ["something"]
            finally:
                await store.close()


@pytest.mark.parametrize("durable", [True, False])
async def test_a_commit_that_the_disk_did_not_keep_is_never_acknowledged_and_the_last(tmp_path, monkeypatch, durable):
    """
    After a failed fsync the kernel may have forgotten what it could not write: nothing is built on it, and whoever
    holds the store is told to end. What was there before can still be read.
    """
    url = sqlite_url(tmp_path / "store.db")
    await migrate(url)
    store = Store(url)

    def unsynced(_connection):
        raise sqlite_error("disk I/O error", sqlite3.SQLITE_IOERR_FSYNC)

    with monkeypatch.context() as patch:
        patch.setattr(group_commit, "commit", unsynced)
        with pytest.raises(Unavailable):
            async with store.writing(durable=durable) as work:
                await work.emit("something", subject="x")
    with pytest.raises(Unavailable, match="failed to keep a commit"):
        async with store.writing():
            pass
    async with store.reading() as work:
        assert await work.nodes.all() == []
    with pytest.raises(NotDurable):
        await store.until_in_doubt()
    await store.close()
