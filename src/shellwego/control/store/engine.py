"""How do we reach the database, and what does it mean when it doesn't answer?

SQLite (WAL) and PostgreSQL behind one small class. On SQLite there is one connection for writers, so they queue in
this process instead of polling a file lock, and a few for readers, which never wait for a writer (`sqlite.py`). Every
wait has a limit; what the driver raises when the database is away becomes `Unavailable`, here and nowhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Hashable, Iterator
from pathlib import Path

import asyncpg
import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from shellwego.control.store.sqlite import CommitWatch, Connections, is_failed_sync, is_full, to_its_end
from shellwego.core.errors import DiskFull, Unavailable

_SQLITE_READERS = 4
_WAIT_SECONDS = 5.0
_STATEMENT_SECONDS = 15.0
_DATABASE = "The database"
_WRITING = "writing to the database"
_IN_DOUBT = "its disk failed to keep a commit. The server ends, and reads anew what is there."
# Which transactions a reader sees, and in whose lifetime the database counted them (a restored one counts anew).
_SEEN = sa.text("SELECT pg_current_snapshot()::text || ' ' || pg_postmaster_start_time()::text")


def sqlite_url(path: Path) -> str:
    return f"sqlite:///{path}"


@contextlib.contextmanager
def database_errors() -> Iterator[None]:
    """Translate what drivers raise when the database is away, slow or full. Integrity errors pass: they are answers."""
    try:
        yield
    except exc.IntegrityError:
        raise
    except exc.TimeoutError as error:
        raise Unavailable(_DATABASE, "all connections are in use.") from error
    except (exc.ProgrammingError, exc.DataError, exc.StatementError) as error:
        if isinstance(error, exc.DBAPIError) and _is_passing(error):
            raise Unavailable(_DATABASE, _short(error)) from error
        if isinstance(error, exc.OperationalError | exc.InternalError | exc.InterfaceError):
            if is_full(error.orig):
                raise DiskFull(_WRITING) from error
            raise Unavailable(_DATABASE, _short(error)) from error
        raise
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:  # From connecting, which SQLAlchemy leaves raw.
        raise Unavailable(_DATABASE, str(error)[:200]) from error
    except sqlite3.Error as error:  # From a connection of our own, which SQLAlchemy doesn't know.
        if is_full(error):
            raise DiskFull(_WRITING) from error
        raise Unavailable(_DATABASE, str(error)[:200]) from error
    except (OSError, TimeoutError) as error:
        raise Unavailable(_DATABASE, str(error)[:200] or "it is too slow.") from error


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """For giving up what is broken already: the error that broke it is the one to tell."""
    with contextlib.suppress(exc.SQLAlchemyError, OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.PostgresError):
        yield


def _is_passing(error: exc.DBAPIError) -> bool:
    """Whether the same statement may succeed later: a lost connection, a shutdown, a deadlock."""
    state = str(getattr(error.orig, "sqlstate", None) or "")
    return error.connection_invalidated or state[:2] in {"08", "53", "57"} or state in {"40001", "40P01", "55P03"}


def _short(error: exc.DBAPIError | exc.StatementError) -> str:
    return str(error.orig).splitlines()[0][:200] if str(error.orig) else type(error.orig).__name__


class NotDurable(Exception):
    """
    A commit could not be brought to the disk. Nobody knows whether it will be there after a power cut, and the kernel
    forgets about a page that it could not write: the only way to know again is to read the file anew.
    """


class Database:
    """Connections to one database, each inside one transaction."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._in_doubt = asyncio.Event()
        self.is_sqlite = url.startswith("sqlite")
        self._readers: Connections | _Pooled
        self._writers: Connections | _Pooled
        if self.is_sqlite:
            self._writers = Connections(url, count=1, write=True, wait_seconds=_WAIT_SECONDS)
            self._readers = Connections(url, count=_SQLITE_READERS, write=False, wait_seconds=_WAIT_SECONDS)
            self._watch = CommitWatch(url, wait_seconds=_WAIT_SECONDS)
        else:
            engine = _postgresql_engine(url)
            self._writers, self._readers = _Pooled(engine, write=True), _Pooled(engine, write=False)

    @contextlib.asynccontextmanager
    async def transaction(self, *, write: bool) -> AsyncIterator[AsyncConnection]:
        """One transaction: committed when the block ends, rolled back when it raises. Raises Unavailable."""
        if write and self._in_doubt.is_set():
            raise Unavailable(_DATABASE, _IN_DOUBT)
        connections = self._writers if write else self._readers
        with database_errors():
            connection = await connections.take()
        try:
            try:
                yield connection
            except BaseException:
                with _quietly():
                    await self._ended(connection.rollback())
                raise
            with database_errors():
                # A transaction that only read has nothing to make durable; its end must not cost a wait.
                await (self._commit(connection) if write else self._ended(connection.rollback()))
        finally:
            with _quietly():
                await connections.give(connection)

    async def _commit(self, connection: AsyncConnection) -> None:
        try:
            await self._ended(connection.commit())
        except exc.DBAPIError as error:
            if is_failed_sync(error.orig):
                self._in_doubt.set()
            raise

    async def until_in_doubt(self) -> None:
        """
        Waits for as long as every commit that was acknowledged is durable, and those that were not are undone. Raises
        NotDurable then: nothing can be written any more, and the process has to end. PostgreSQL sees to that itself.
        """
        await self._in_doubt.wait()
        raise NotDurable(_IN_DOUBT)

    async def _ended(self, step: Awaitable[None]) -> None:
        """The end of a transaction, cancelled or not. On SQLite what may wait in it sees to that itself."""
        await (step if self.is_sqlite else to_its_end(step))

    async def version(self) -> Hashable:
        """
        A name for what the database holds now: equal to an earlier one only if nothing was committed in between, by
        whomever. What is read after asking for it is at least as new. Raises Unavailable.
        """
        if self.is_sqlite:
            with database_errors():
                return await self._watch.version()
        async with self.transaction(write=False) as connection:
            with database_errors():
                return str((await connection.execute(_SEEN)).scalar_one())

    async def close(self) -> None:
        if self.is_sqlite:
            self._watch.close()
        await self._writers.close()
        await self._readers.close()


class _Pooled:
    """PostgreSQL's connections, from SQLAlchemy's pool, which tries each before it is used."""

    def __init__(self, engine: AsyncEngine, *, write: bool) -> None:
        self._engine, self._write = engine, write

    async def take(self) -> AsyncConnection:
        connection = await self._engine.connect()
        try:
            await connection.execution_options(postgresql_readonly=not self._write)
            await to_its_end(connection.begin().start())
        except BaseException:
            with _quietly():
                await self.give(connection)
            raise
        return connection

    async def give(self, connection: AsyncConnection) -> None:
        await to_its_end(connection.close())

    async def close(self) -> None:
        await self._engine.dispose()


def _postgresql_engine(url: str) -> AsyncEngine:
    return create_async_engine(
        url,
        pool_size=10,
        max_overflow=5,
        pool_timeout=_WAIT_SECONDS,
        pool_pre_ping=True,
        connect_args={
            "timeout": _WAIT_SECONDS,
            "command_timeout": _STATEMENT_SECONDS,
            "server_settings": {
                "application_name": "shellwego",
                "lock_timeout": "10000",
                "idle_in_transaction_session_timeout": "60000",
            },
        },
    )
