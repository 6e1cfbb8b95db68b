"""How do we reach the database?

SQLite (WAL) and PostgreSQL behind one small class. On SQLite there is one connection for writers, so they queue in
this process instead of polling a file lock, and a few for readers, which never wait for a writer (`sqlite.py`). Every
wait has a limit.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from shellwego.control.store.failures import NotDurable, database_errors, quietly
from shellwego.control.store.group_commit import IN_DOUBT, Writer
from shellwego.control.store.prepared import Prepared
from shellwego.control.store.sqlite import CommitWatch, Readers, to_its_end

P = ParamSpec("P")
T = TypeVar("T")

_SQLITE_READERS = 4
_WAIT_SECONDS = 5.0
_STATEMENT_SECONDS = 15.0
# Which transactions a reader sees, and in whose lifetime the database counted them (a restored one counts anew).
_SEEN = sa.text("SELECT pg_current_snapshot()::text || ' ' || pg_postmaster_start_time()::text")


class Connection(Protocol):
    """A connection inside a transaction, of either database. What drivers raise comes through."""

    @property
    def dialect(self) -> sa.Dialect: ...

    async def run_sync(
        self, act: Callable[Concatenate[sa.Connection, P], T], *arguments: P.args, **named: P.kwargs
    ) -> T:
        """What `act` does with SQLAlchemy's connection."""
        ...

    async def rows(self, prepared: Prepared, values: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        """All that a prepared statement gives; none if it gives no rows."""
        ...


def sqlite_url(path: Path) -> str:
    return f"sqlite:///{path}"


class Database:
    """Connections to one database, each inside one transaction."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._in_doubt = asyncio.Event()
        self.is_sqlite = url.startswith("sqlite")
        self._readers: Readers | _Pooled
        self._writers: Writer | _Pooled
        if self.is_sqlite:
            self._writers = Writer(url, wait_seconds=_WAIT_SECONDS, in_doubt=self._in_doubt)
            self._readers = Readers(url, count=_SQLITE_READERS, wait_seconds=_WAIT_SECONDS)
            self._watch = CommitWatch(url, wait_seconds=_WAIT_SECONDS)
        else:
            engine = _postgresql_engine(url)
            self._writers, self._readers = _Pooled(engine, write=True), _Pooled(engine, write=False)

    def transaction(self, *, write: bool, durable: bool = True) -> contextlib.AbstractAsyncContextManager[Connection]:
        """
        One transaction: committed when the block ends, rolled back when it raises. PostgreSQL makes each durable: there
        a commit keeps no other waiting. Raises Unavailable, DiskFull.
        """
        return self._writers.transaction(durable=durable) if write else self._readers.transaction()

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
                return str(await connection.run_sync(lambda sync: sync.execute(_SEEN).scalar_one()))

    async def until_in_doubt(self) -> None:
        """
        Waits for as long as every commit that was acknowledged is durable, and those that were not are undone. Raises
        NotDurable then: nothing can be written any more, and the process has to end. PostgreSQL sees to that itself.
        """
        await self._in_doubt.wait()
        raise NotDurable(IN_DOUBT)

    async def close(self) -> None:
        if self.is_sqlite:
            self._watch.close()
        await self._writers.close()
        await self._readers.close()


class _Pooled:
    """PostgreSQL's connections, from SQLAlchemy's pool, which tries each before it is used."""

    def __init__(self, engine: AsyncEngine, *, write: bool) -> None:
        self._engine, self._write = engine, write

    @contextlib.asynccontextmanager
    async def transaction(self, *, durable: bool = True) -> AsyncIterator[_PooledConnection]:
        with database_errors():
            connection = await self._engine.connect()
        try:
            with database_errors():
                await connection.execution_options(postgresql_readonly=not self._write)
                await to_its_end(connection.begin().start())
            try:
                yield _PooledConnection(connection)
            except BaseException:
                with quietly():
                    await to_its_end(connection.rollback())
                raise
            with database_errors():
                # A transaction that only read has nothing to make durable; its end must not cost a wait.
                await to_its_end(connection.commit() if self._write else connection.rollback())
        finally:
            with quietly():
                await to_its_end(connection.close())

    async def close(self) -> None:
        await self._engine.dispose()


class _PooledConnection:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    @property
    def dialect(self) -> sa.Dialect:
        return self._connection.dialect

    async def run_sync(
        self, act: Callable[Concatenate[sa.Connection, P], T], *arguments: P.args, **named: P.kwargs
    ) -> T:
        return await self._connection.run_sync(act, *arguments, **named)

    async def rows(self, prepared: Prepared, values: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        result = await self._connection.execute(prepared.statement, values)
        return result.all() if result.returns_rows else ()


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
