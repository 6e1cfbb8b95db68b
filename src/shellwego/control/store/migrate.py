"""How does a database come to have today's tables?

Alembic, from the package itself (an installed wheel has no alembic.ini), under the same limits and the same
translation of errors as every other use of the database.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from shellwego.control.store.engine import Database, database_errors

# Two servers may start at once on PostgreSQL; the second waits for the first. SQLite's BEGIN IMMEDIATE does the same.
_MIGRATION_LOCK = 0x5377670001


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", "shellwego.control.store:migrations")
    config.set_main_option("path_separator", "os")
    return config


def newest_revision() -> str:
    """The revision that this version of the code works with."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None
    return head


async def migrate(url: str, revision: str = "head") -> None:
    """Bring the database to a revision, in one transaction. Safe to repeat. Raises Unavailable."""
    database = Database(url)
    try:
        async with database.transaction(write=True) as connection:
            with database_errors():
                if not database.is_sqlite:
                    await connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
                await connection.run_sync(_upgrade, revision)
    finally:
        await database.close()


async def current_revision(url: str) -> str | None:
    """What the database has now; None for an empty one. Raises Unavailable."""
    database = Database(url)
    try:
        async with database.transaction(write=False) as connection:
            with database_errors():
                return await connection.run_sync(lambda sync: MigrationContext.configure(sync).get_current_revision())
    finally:
        await database.close()


def _upgrade(connection: sa.Connection, revision: str) -> None:
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, revision)
