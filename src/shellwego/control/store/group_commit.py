"""How do many requests write to one SQLite file, when each must be durable before it is answered?

One after the other, on one connection, and with one COMMIT for all who were waiting meanwhile: a COMMIT writes whole
pages and waits for the disk, so it costs more than most of what it makes durable (docs/decisions/0015).

The first of a group begins the transaction. When its own work is done it queues up again, to commit; whoever stood
between works in the same transaction, each in a SAVEPOINT, so that one that fails takes back its own work only. All of
them end when the COMMIT has ended, also those that failed: a refusal may rest on what a neighbour has written. If it
fails, it fails for all, and nothing was written.

What was only seen, and is seen again, need not wait for the disk (docs/decisions/0017): alone, it commits at once, and
nobody joins it; between others, it is one of their group.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sqlite3
from collections.abc import AsyncIterator

from shellwego.control.store.failures import database_errors, is_failed_sync, quietly
from shellwego.control.store.sqlite import Connection, Opener, in_thread, take_turn, to_its_end
from shellwego.core.errors import Unavailable

IN_DOUBT = "its disk failed to keep a commit. The server ends, and reads anew what is there."

_Group = asyncio.Future[None]
"""Those who share a transaction. Done when it has ended; raises what ended it when nothing was written."""


class Writer:
    """The one connection of this process that writes. Sets `in_doubt` when a commit could not be synced."""

    def __init__(self, url: str, *, wait_seconds: float, in_doubt: asyncio.Event) -> None:
        self._opener = Opener(url, wait_seconds=wait_seconds)
        self._wait_seconds, self._in_doubt = wait_seconds, in_doubt
        self._turn = asyncio.Semaphore(1)
        self._connection: Connection | None = None
        self._syncs = True
        self._group: _Group | None = None

    @contextlib.asynccontextmanager
    async def transaction(self, *, durable: bool = True) -> AsyncIterator[Connection]:
        """
        Committed when the block has ended, taken back when it raises. What isn't `durable` is lost with the machine's
        power, and with nothing else, until a later commit is. Raises Unavailable, DiskFull.
        """
        with database_errors():
            await take_turn(self._turn, self._wait_seconds)
        is_first = self._group is None
        group = self._group = self._group or asyncio.get_running_loop().create_future()
        try:
            try:
                with database_errors():
                    connection = await (self._begin(syncs=durable) if is_first else self._join())
                yield connection
                with database_errors():
                    _finish(connection.driver, is_first)
                    if is_first and not durable:
                        await self._commit_now()
            except BaseException as error:
                self._take_back(is_first, error)
                raise
            finally:
                self._turn.release()
        finally:
            with database_errors():
                await to_its_end(self._commit(group) if is_first and not group.done() else group)

    async def close(self) -> None:
        self._drop()

    async def _begin(self, *, syncs: bool) -> Connection:
        if self._in_doubt.is_set():
            raise Unavailable("The database", IN_DOUBT)
        if self._connection is None:
            self._connection = await self._opener.open()
            self._connection.driver.execute("PRAGMA busy_timeout=0")  # Whoever finds the file taken waits in a thread.
            self._syncs = True  # As every connection is opened.
        if syncs != self._syncs:
            self._connection.driver.execute(f"PRAGMA synchronous={'FULL' if syncs else 'NORMAL'}")
            self._syncs = syncs
        await begin_writing(self._connection.driver, self._wait_seconds)
        return self._connection

    async def _join(self) -> Connection:
        assert self._connection is not None
        self._connection.driver.execute("SAVEPOINT member")
        return self._connection

    def _take_back(self, is_first: bool, error: BaseException) -> None:
        """
        Undo one member's work. When the first one fails there is no other yet. SQLite takes a whole transaction back
        by itself when the disk is full, say: then all others fail with the one that met it.
        """
        if is_first:
            self._end(None)
            return
        assert self._connection is not None
        driver = self._connection.driver
        try:
            if not driver.in_transaction:
                raise error
            driver.execute("ROLLBACK TO member")
            driver.execute("RELEASE member")
        except BaseException as lost:
            self._end(lost)

    async def _commit(self, group: _Group) -> None:
        await self._turn.acquire()
        try:
            if not group.done():
                await self._commit_now()
        except BaseException as error:
            self._end(error)
        finally:
            self._turn.release()
        group.result()

    async def _commit_now(self) -> None:
        assert self._connection is not None
        try:
            await in_thread(functools.partial(commit, self._connection.driver))
        except BaseException as error:
            if is_failed_sync(error):
                self._in_doubt.set()
            raise
        self._end(None)

    def _end(self, error: BaseException | None) -> None:
        """The group is over; whatever of it isn't committed is taken back."""
        group, self._group = self._group, None
        if self._connection is not None:
            with quietly():
                self._connection.driver.rollback()
            if not self._connection.is_idle():
                self._drop()
        assert group is not None
        if error is None:
            group.set_result(None)
        elif isinstance(error, Exception):
            group.set_exception(error)
        else:
            group.set_exception(Unavailable("The database", "it was interrupted."))

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def commit(driver: sqlite3.Connection) -> None:
    driver.execute("COMMIT")  # Its own method says nothing when SQLite has ended the transaction by itself.


def _finish(driver: sqlite3.Connection, is_first: bool) -> None:
    if not driver.in_transaction:
        raise sqlite3.OperationalError("the transaction was taken back")
    if not is_first:
        driver.execute("RELEASE member")


async def begin_writing(driver: sqlite3.Connection, wait_seconds: float) -> None:
    # A deferred transaction that turns into a writer fails at once when another wrote meanwhile (SQLITE_BUSY without a
    # wait, since its snapshot is old): writers say so from the start.
    try:
        driver.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
            raise
        driver.execute(f"PRAGMA busy_timeout={int(wait_seconds * 1000)}")
        try:
            await in_thread(lambda: driver.execute("BEGIN IMMEDIATE"))
        finally:
            driver.execute("PRAGMA busy_timeout=0")
