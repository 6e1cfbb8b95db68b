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

from shellwego.control.store.sqlite import WRITE_OPTION, CommitWatch, sqlite_engine
from shellwego.core.errors import DiskFull, Unavailable

_SQLITE_READERS = 4
_WAIT_SECONDS = 5.0
_STATEMENT_SECONDS = 15.0
_DATABASE = "The database"
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
            if "disk is full" in str(error.orig):
                raise DiskFull("writing to the database") from error
            raise Unavailable(_DATABASE, _short(error)) from error
        raise
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:  # From connecting, which SQLAlchemy leaves raw.
        raise Unavailable(_DATABASE, str(error)[:200]) from error
    except sqlite3.Error as error:  # From a connection of our own, which SQLAlchemy doesn't know.
        raise Unavailable(_DATABASE, str(error)[:200]) from error
    except (OSError, TimeoutError) as error:
        raise Unavailable(_DATABASE, str(error)[:200] or "it is too slow.") from error


async def _to_its_end(step: Awaitable[object]) -> None:
    """
    Finish the step even when we are cancelled meanwhile, and be cancelled after it: a COMMIT that is left alone has an
    effect that nobody knows, and a connection that is given back in the middle of a step is somebody else's trouble.
    """
    task = asyncio.ensure_future(step)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.done():
            await asyncio.wait({task})
        if not task.cancelled() and task.exception() is None:
            raise
        await task


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


class Database:
    """Connections to one database, each inside one transaction."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.is_sqlite = url.startswith("sqlite")
        if self.is_sqlite:
            self._writers = sqlite_engine(url, connections=1, wait_seconds=_WAIT_SECONDS)
            self._readers = sqlite_engine(url, connections=_SQLITE_READERS, wait_seconds=_WAIT_SECONDS)
            self._watch = CommitWatch(url, wait_seconds=_WAIT_SECONDS)
        else:
            self._writers = self._readers = _postgresql_engine(url)

    @contextlib.asynccontextmanager
    async def transaction(self, *, write: bool) -> AsyncIterator[AsyncConnection]:
        """One transaction: committed when the block ends, rolled back when it raises. Raises Unavailable."""
        engine = self._writers if write else self._readers
        with database_errors():
            connection = await engine.connect()
        try:
            options = {WRITE_OPTION: write} if self.is_sqlite else {"postgresql_readonly": not write}
            with database_errors():
                await connection.execution_options(**options)
                await _to_its_end(connection.begin().start())
            try:
                yield connection
            except BaseException:
                with _quietly():
                    await _to_its_end(connection.rollback())
                raise
            with database_errors():
                # A transaction that only read has nothing to make durable; its end must not cost a wait.
                await _to_its_end(connection.commit() if write else connection.rollback())
        finally:
            with _quietly():
                await _to_its_end(connection.close())

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
        await self._writers.dispose()
        if self._readers is not self._writers:
            await self._readers.dispose()


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
