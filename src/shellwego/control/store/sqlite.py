"""How does an event loop work with SQLite?

Directly. A read of a few rows takes some ten microseconds, most of it in the page cache; handing it to a thread and
back, four times per statement as aiosqlite does under SQLAlchemy, took a millisecond (docs/decisions). What can wait
for the disk or for another process goes to a thread: COMMIT (which syncs), BEGIN IMMEDIATE when another process holds
the file, and the opening of a file. Such a step is gone through to its end, also when its caller is cancelled.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import event, exc, pool
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.util import await_only

T = TypeVar("T")


class DirectSQLite(SQLiteDialect_pysqlite):
    """The standard library's driver, called from SQLAlchemy's asyncio side without a thread in between."""

    driver = "direct"
    is_async = True
    supports_statement_cache = True

    def connect(self, *args: Any, **options: Any) -> Any:
        return _in_thread(lambda: super(DirectSQLite, self).connect(*args, **options))

    def do_commit(self, dbapi_connection: Any) -> None:
        _in_thread(dbapi_connection.commit)


registry.register("sqlite.direct", __name__, "DirectSQLite")


class Connections:
    """
    A few connections to one file, for readers or for writers, taken in turns. They stay out of SQLAlchemy's pool: the
    way out of it and back took longer than most of what is done in between.
    """

    def __init__(self, url: str, *, count: int, write: bool, wait_seconds: float) -> None:
        self._engine = _engine(url, write=write, wait_seconds=wait_seconds)
        self._wait_seconds = wait_seconds
        self._turns = asyncio.Semaphore(count)
        self._free: list[AsyncConnection] = []

    async def take(self) -> AsyncConnection:
        """One of them, in a transaction. Raises exc.TimeoutError when none comes free in time."""
        try:
            async with asyncio.timeout(self._wait_seconds):
                await self._turns.acquire()
        except TimeoutError as error:
            raise exc.TimeoutError("all are in use") from error
        try:
            connection = self._free.pop() if self._free else await self._engine.connect()
        except BaseException:
            self._turns.release()
            raise
        try:
            await connection.begin()
        except BaseException:
            await self.give(connection, broken=True)
            raise
        return connection

    async def give(self, connection: AsyncConnection, *, broken: bool = False) -> None:
        """Back, after its transaction's end."""
        try:
            if not broken and _is_idle(connection):
                self._free.append(connection)
            else:
                await connection.close()
        finally:
            self._turns.release()

    async def close(self) -> None:
        while self._free:
            await self._free.pop().close()
        await self._engine.dispose()


def _engine(url: str, *, write: bool, wait_seconds: float) -> AsyncEngine:
    engine = create_async_engine(
        sa.make_url(url).set(drivername="sqlite+direct"),
        poolclass=pool.NullPool,
        # One statement at a time by construction; threads only ever take turns (sqlite3.threadsafety is 3, serialized).
        connect_args={"timeout": wait_seconds, "check_same_thread": False},
    )

    @event.listens_for(engine.sync_engine, "connect")
    def configure(connection: sqlite3.Connection, _record: Any) -> None:
        # The driver's own transaction control begins late and deferred; ours is explicit, below.
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")
        # FULL: a committed answer survives a power cut. NORMAL may lose the last commits of a WAL.
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA journal_size_limit=67108864")
        if write:
            connection.execute("PRAGMA busy_timeout=0")  # Whoever finds the file taken waits in a thread.

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: sa.Connection) -> None:
        # A deferred transaction that turns into a writer fails at once when another wrote meanwhile (SQLITE_BUSY
        # without a wait, since its snapshot is old): writers say so from the start.
        driver: Any = connection.connection.driver_connection
        if not write:
            driver.execute("BEGIN")
            return
        try:
            _begin_writing(driver, wait_seconds)
        except sqlite3.Error as error:
            raise exc.OperationalError("BEGIN IMMEDIATE", None, error) from error

    return engine


def _is_idle(connection: AsyncConnection) -> bool:
    """
    Whether it can be used again: not when a rollback failed, which SQLAlchemy takes for an end, nor when a commit did,
    which SQLite takes for one (its disk was full, say) and SQLAlchemy doesn't.
    """
    if connection.closed or connection.invalidated or connection.sync_connection is None:
        return False
    if connection.sync_connection.get_transaction() is not None:
        return False
    driver: Any = connection.sync_connection.connection.driver_connection
    return not driver.in_transaction


def _begin_writing(driver: sqlite3.Connection, wait_seconds: float) -> None:
    try:
        driver.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
            raise
        driver.execute(f"PRAGMA busy_timeout={int(wait_seconds * 1000)}")
        try:
            _in_thread(lambda: driver.execute("BEGIN IMMEDIATE"))
        finally:
            driver.execute("PRAGMA busy_timeout=0")


def is_full(error: BaseException | None) -> bool:
    """Whether there was no room, be it for the log or for its index, which a killed process leaves to be made anew."""
    return getattr(error, "sqlite_errorcode", None) in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE}


def is_failed_sync(error: BaseException | None) -> bool:
    """Whether the kernel could not say that what was written has reached the disk (fsync(2): EIO)."""
    return getattr(error, "sqlite_errorcode", None) in {sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_DIR_FSYNC}


class CommitWatch:
    """
    Tells whether anything was committed, by SQLite's own word: `PRAGMA data_version` of one connection changes with
    every commit of any other, in this process or another. This one never writes, so it hears of all.
    """

    def __init__(self, url: str, *, wait_seconds: float) -> None:
        self._path, self._wait_seconds = sa.make_url(url).database or "", wait_seconds
        self._connection: sqlite3.Connection | None = None
        self._opened = 0

    async def version(self) -> Hashable:
        """
        Equal to an earlier answer only if nothing was committed in between. Raises sqlite3.Error.
        """
        if self._connection is None:
            self._connection = await asyncio.to_thread(self._open)
            self._opened += 1  # The numbers of two connections have nothing to do with each other.
        try:
            return self._opened, self._connection.execute("PRAGMA data_version").fetchone()[0]
        except sqlite3.Error:
            self.close()
            raise

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=self._wait_seconds, isolation_level=None, check_same_thread=False)


def _in_thread(step: Callable[[], Any]) -> Any:
    """Inside SQLAlchemy's greenlet: wait for the step in a thread, while the event loop goes on."""
    return await_only(to_its_end(asyncio.get_running_loop().run_in_executor(None, step)))


async def to_its_end(step: Awaitable[T]) -> T:
    """
    Finish the step even when we are cancelled meanwhile, and be cancelled after it: a COMMIT that is left alone has an
    effect that nobody knows, and a connection that is given back in the middle of a step is somebody else's trouble.
    """
    task = asyncio.ensure_future(step)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.done():
            await asyncio.wait({task})
        if not task.cancelled() and task.exception() is None:
            raise
        return await task
