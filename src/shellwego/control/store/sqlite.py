"""How does an event loop work with SQLite?

Directly. A read of a few rows takes some ten microseconds, most of it in the page cache; handing it to a thread and
back, four times per statement as aiosqlite does under SQLAlchemy, took a millisecond (docs/decisions). What can wait
for the disk or for another process goes to a thread: BEGIN IMMEDIATE, COMMIT (which syncs) and the opening of a file.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Hashable
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, pool
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.util import await_only

WRITE_OPTION = "shellwego_write"
"""Execution option of a connection: whether its transaction may write."""


class DirectSQLite(SQLiteDialect_pysqlite):
    """The standard library's driver, called from SQLAlchemy's asyncio side without a thread in between."""

    driver = "direct"
    is_async = True
    supports_statement_cache = True

    @classmethod
    def get_pool_class(cls, url: sa.URL) -> type[pool.Pool]:
        return pool.AsyncAdaptedQueuePool

    def connect(self, *args: Any, **options: Any) -> Any:
        return _in_thread(lambda: super(DirectSQLite, self).connect(*args, **options))

    def do_commit(self, dbapi_connection: Any) -> None:
        _in_thread(dbapi_connection.commit)


registry.register("sqlite.direct", __name__, "DirectSQLite")


def sqlite_engine(url: str, *, connections: int, wait_seconds: float) -> AsyncEngine:
    """At most so many connections; who finds none free waits `wait_seconds`."""
    engine = create_async_engine(
        sa.make_url(url).set(drivername="sqlite+direct"),
        pool_size=connections,
        max_overflow=0,
        pool_timeout=wait_seconds,
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

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: sa.Connection) -> None:
        # A deferred transaction that turns into a writer fails at once when another wrote meanwhile (SQLITE_BUSY
        # without a wait, since its snapshot is old): writers say so from the start.
        driver: Any = connection.connection.driver_connection
        if connection.get_execution_options().get(WRITE_OPTION, True):
            try:
                _in_thread(lambda: driver.execute("BEGIN IMMEDIATE"))
            except sqlite3.Error as error:
                raise sa.exc.OperationalError("BEGIN IMMEDIATE", None, error) from error
        else:
            driver.execute("BEGIN")

    return engine


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
    return await_only(asyncio.to_thread(step))
