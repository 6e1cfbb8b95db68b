"""Alembic's entry: runs inside the transaction that `migrate.py` opened, or writes a new revision for developers."""

from __future__ import annotations

from alembic import context

from shellwego.control.store.tables import metadata

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=metadata,
    # SQLite can't alter most of a table in place; Alembic then copies it.
    render_as_batch=connection.dialect.name == "sqlite",
    transactional_ddl=True,
)
context.run_migrations()
