"""How does a database come to have today's tables?

Alembic, from the package itself (an installed wheel has no alembic.ini), under the same limits and the same
translation of errors as every other use of the database. It is imported only where there is something to do: that is
a tenth of the time that a killed server takes to be back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from shellwego.control.store.engine import Database
from shellwego.control.store.failures import database_errors

if TYPE_CHECKING:
    from alembic.config import Config

NEWEST_REVISION = "v0003"
"""What this version of the code works with: the last of `migrations/versions`."""

# Two servers may start at once on PostgreSQL; the second waits for the first. SQLite's BEGIN IMMEDIATE does the same.
_MIGRATION_LOCK = 0x5377670001


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "shellwego.control.store:migrations")
    config.set_main_option("path_separator", "os")
    return config


async def migrate(url: str, revision: str = "head") -> None:
    """Bring the database to a revision, in one transaction. Safe to repeat. Raises Unavailable."""
    database = Database(url)
    try:
        async with database.transaction(write=True) as connection:
            with database_errors():
                if not database.is_sqlite:
                    await connection.run_sync(_lock)
                if revision == "head" and await connection.run_sync(_revision) == NEWEST_REVISION:
                    return
                await connection.run_sync(_upgrade, revision)
    finally:
        await database.close()


async def current_revision(url: str) -> str | None:
    """What the database has now; None for an empty one. Raises Unavailable."""
    database = Database(url)
    try:
        async with database.transaction(write=False) as connection:
            with database_errors():
                return await connection.run_sync(_revision)
    finally:
        await database.close()


def _lock(connection: sa.Connection) -> None:
    connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})


def _revision(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()


def _upgrade(connection: sa.Connection, revision: str) -> None:
    from alembic import command

    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, revision)
