"""How does an event loop work with SQLite?

Directly. A read of a few rows takes some ten microseconds, most of it in the page cache; handing it to a thread and
back, four times per statement as aiosqlite does under SQLAlchemy, took a millisecond (docs/decisions/0006). What can
wait for the disk or for another process goes to a thread: COMMIT (which syncs), BEGIN IMMEDIATE when another process
holds the file, and the opening of a file. Such a step is gone through to its end, also when its caller is cancelled.

Transactions are begun and ended here and in `group_commit.py`, by SQLite's own words: SQLAlchemy only runs statements.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

import sqlalchemy as sa
from sqlalchemy import event, exc, pool

from shellwego.control.store.failures import database_errors, quietly
from shellwego.control.store.prepared import Prepared

P = ParamSpec("P")
T = TypeVar("T")


class Connection:
    """One connection to the file, for SQLAlchemy's statements and, past most of SQLAlchemy, for prepared ones."""

    def __init__(self, sync: sa.Connection) -> None:
        driver: Any = sync.connection.driver_connection
        self._sync = sync
        self.driver: sqlite3.Connection = driver

    @property
    def dialect(self) -> sa.Dialect:
        return self._sync.dialect

    async def run_sync(
        self, act: Callable[Concatenate[sa.Connection, P], T], *arguments: P.args, **named: P.kwargs
    ) -> T:
        return act(self._sync, *arguments, **named)

    async def rows(self, prepared: Prepared, values: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        direct = prepared.direct(self._sync.dialect, values)
        bound = direct.bind(values)
        try:
            found = self.driver.execute(direct.sql, bound).fetchall()
        except sqlite3.Error as error:
            raise direct.translated(error, bound) from error
        return direct.read(found)

    def is_idle(self) -> bool:
        """Whether it can be used again: a transaction whose end failed (a disk was full, say) may still be in it."""
        return not self._sync.closed and not self._sync.invalidated and not self.driver.in_transaction

    def close(self) -> None:
        self._sync.close()


class Opener:
    """Opens connections to one file."""

    def __init__(self, url: str, *, wait_seconds: float) -> None:
        self._engine = sa.create_engine(
            sa.make_url(url).set(drivername="sqlite"),
            poolclass=pool.NullPool,
            # One statement at a time by construction; threads only ever take turns (sqlite3.threadsafety is 3,
            # serialized).
            connect_args={"timeout": wait_seconds, "check_same_thread": False},
        )
        event.listen(self._engine, "connect", _configure)

    async def open(self) -> Connection:
        return Connection(await in_thread(self._engine.connect))


def _configure(connection: sqlite3.Connection, _record: Any) -> None:
    # The driver's own transaction control begins late and deferred; ours is explicit.
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode=WAL")
    # FULL: a committed answer survives a power cut. NORMAL may lose the last commits of a WAL.
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("PRAGMA journal_size_limit=67108864")


class Readers:
    """A few connections that only read, taken in turns. Each transaction sees one state, and waits for no writer."""

    def __init__(self, url: str, *, count: int, wait_seconds: float) -> None:
        self._opener = Opener(url, wait_seconds=wait_seconds)
        self._wait_seconds = wait_seconds
        self._turns = asyncio.Semaphore(count)
        self._free: list[Connection] = []

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Raises Unavailable."""
        with database_errors():
            await take_turn(self._turns, self._wait_seconds)
        try:
            with database_errors():
                connection = self._free.pop() if self._free else await self._opener.open()
                connection.driver.execute("BEGIN")
            try:
                yield connection
            finally:
                with quietly():
                    connection.driver.rollback()  # There is nothing to make durable; its end must not cost a wait.
                if connection.is_idle():
                    self._free.append(connection)
                else:
                    connection.close()
        finally:
            self._turns.release()

    async def close(self) -> None:
        while self._free:
            self._free.pop().close()


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


async def take_turn(turns: asyncio.Semaphore, seconds: float) -> None:
    """Raises exc.TimeoutError when none comes free in time."""
    if not turns.locked():  # Then there is no wait that needs a limit, and a limit costs more than the turn.
        await turns.acquire()
        return
    try:
        async with asyncio.timeout(seconds):
            await turns.acquire()
    except TimeoutError as error:
        raise exc.TimeoutError("all are in use") from error


async def in_thread(step: Callable[[], T]) -> T:
    """Wait for the step in a thread, while the event loop goes on."""
    return await to_its_end(asyncio.get_running_loop().run_in_executor(None, step))


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
