"""What does it mean when the database doesn't answer?

What drivers raise when it is away, slow or full becomes `Unavailable` or `DiskFull`, here and nowhere else.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator

import asyncpg
from sqlalchemy import exc

from shellwego.core.errors import DiskFull, ShellWeGoError, Unavailable

_DATABASE = "The database"
_WRITING = "writing to the database"


class NotDurable(Exception):
    """
    A commit could not be brought to the disk. Nobody knows whether it will be there after a power cut, and the kernel
    forgets about a page that it could not write: the only way to know again is to read the file anew.
    """


class _DatabaseErrors:
    def __enter__(self) -> None: ...

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        if error is not None and (meaning := _meaning_of(error)) is not None:
            raise meaning from error


_DATABASE_ERRORS = _DatabaseErrors()


def database_errors() -> _DatabaseErrors:
    """Translate what drivers raise when the database is away, slow or full. Integrity errors pass: they are answers."""
    return _DATABASE_ERRORS  # Always the same: it stands around every statement.


def _meaning_of(error: BaseException) -> ShellWeGoError | None:
    if isinstance(error, exc.IntegrityError):
        return None
    if isinstance(error, exc.TimeoutError):
        return Unavailable(_DATABASE, "all connections are in use.")
    if isinstance(error, exc.StatementError):
        if isinstance(error, exc.DBAPIError) and _is_passing(error):
            return Unavailable(_DATABASE, _short(error))
        if isinstance(error, exc.OperationalError | exc.InternalError | exc.InterfaceError):
            return DiskFull(_WRITING) if is_full(error.orig) else Unavailable(_DATABASE, _short(error))
        return None
    if isinstance(error, asyncpg.PostgresError | asyncpg.InterfaceError):  # From connecting, left raw by SQLAlchemy.
        return Unavailable(_DATABASE, str(error)[:200])
    if isinstance(error, sqlite3.Error):  # From what we say to SQLite ourselves: BEGIN, COMMIT.
        return DiskFull(_WRITING) if is_full(error) else Unavailable(_DATABASE, str(error)[:200])
    if isinstance(error, OSError):  # TimeoutError is one.
        return Unavailable(_DATABASE, str(error)[:200] or "it is too slow.")
    return None


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """For giving up what is broken already: the error that broke it is the one to tell."""
    with contextlib.suppress(
        exc.SQLAlchemyError, sqlite3.Error, OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.PostgresError
    ):
        yield


def is_full(error: BaseException | None) -> bool:
    """Whether there was no room, be it for the log or for its index, which a killed process leaves to be made anew."""
    return getattr(error, "sqlite_errorcode", None) in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE}


def is_failed_sync(error: BaseException | None) -> bool:
    """Whether the kernel could not say that what was written has reached the disk (fsync(2): EIO)."""
    return getattr(error, "sqlite_errorcode", None) in {sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_DIR_FSYNC}


def _is_passing(error: exc.DBAPIError) -> bool:
    """Whether the same statement may succeed later: a lost connection, a shutdown, a deadlock."""
    state = str(getattr(error.orig, "sqlstate", None) or "")
    return error.connection_invalidated or state[:2] in {"08", "53", "57"} or state in {"40001", "40P01", "55P03"}


def _short(error: exc.DBAPIError | exc.StatementError) -> str:
    return str(error.orig).splitlines()[0][:200] if str(error.orig) else type(error.orig).__name__
