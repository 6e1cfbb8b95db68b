"""How do we reach the database, and what does it mean when it doesn't answer?

SQLite (WAL) and PostgreSQL behind one small class. On SQLite there is one connection for writers, so they queue in
this process instead of polling a file lock, and a few for readers, which never wait for a writer. Every wait has a
limit; what the driver raises when the database is away becomes `Unavailable`, here and nowhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from shellwego.core.errors import DiskFull, Unavailable

_SQLITE_READERS = 4
_WAIT_SECONDS = 5.0
_STATEMENT_SECONDS = 15.0
_DATABASE = "The database"


def sqlite_url(path: Path) -> str:
    return f"sqlite+aiosqlite:///{path}"


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
    except (OSError, TimeoutError) as error:
        raise Unavailable(_DATABASE, str(error)[:200] or "it is too slow.") from error


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
            self._writers = _sqlite_engine(url, connections=1)
            self._readers = _sqlite_engine(url, connections=_SQLITE_READERS)
        else:
            self._writers = self._readers = _postgresql_engine(url)

    @contextlib.asynccontextmanager
    async def transaction(self, *, write: bool) -> AsyncIterator[AsyncConnection]:
        """One transaction: committed when the block ends, rolled back when it raises. Raises Unavailable."""
        engine = self._writers if write else self._readers
        with database_errors():
            connection = await engine.connect()
        try:
            options = {"shellwego_write": write} if self.is_sqlite else {"postgresql_readonly": not write}
            with database_errors():
                await connection.execution_options(**options)
                await connection.begin()
            try:
                yield connection
            except BaseException:
                with contextlib.suppress(exc.SQLAlchemyError, OSError, TimeoutError, asyncpg.InterfaceError):
                    await connection.rollback()
                raise
            with database_errors():
                # Shielded: a request that is cancelled here would otherwise not know whether its effect exists.
                await asyncio.shield(connection.commit())
        finally:
            with contextlib.suppress(exc.SQLAlchemyError, OSError, TimeoutError, asyncpg.InterfaceError):
                await asyncio.shield(connection.close())

    async def close(self) -> None:
        await self._writers.dispose()
        if self._readers is not self._writers:
            await self._readers.dispose()


def _sqlite_engine(url: str, *, connections: int) -> AsyncEngine:
    engine = create_async_engine(
        url,
        poolclass=AsyncAdaptedQueuePool,
        pool_size=connections,
        max_overflow=0,
        pool_timeout=_WAIT_SECONDS,
        connect_args={"timeout": _WAIT_SECONDS},
    )

    @event.listens_for(engine.sync_engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        # The driver's own transaction control begins late and deferred; ours is explicit, below.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        # FULL: a committed answer survives a power cut. NORMAL may lose the last commits of a WAL.
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute(f"PRAGMA busy_timeout={int(_WAIT_SECONDS * 1000)}")
        cursor.execute("PRAGMA journal_size_limit=67108864")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: sa.Connection) -> None:
        # A deferred transaction that turns into a writer fails at once when another wrote meanwhile (SQLITE_BUSY
        # without a wait, since its snapshot is old): writers say so from the start.
        write = connection.get_execution_options().get("shellwego_write", True)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


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
