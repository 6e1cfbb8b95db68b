"""Answers that were given under an Idempotency-Key, kept beside their effect."""

from __future__ import annotations

import datetime as dt

import sqlalchemy as sa
from sqlalchemy import exc

from shellwego.control.store import tables
from shellwego.control.store.records import IdempotencyRecord
from shellwego.control.store.repository import Repository
from shellwego.core.errors import Unavailable
from shellwego.core.ids import OrganisationId, UserId

_keys = tables.idempotency_keys


class IdempotencyRepository(Repository[IdempotencyRecord]):
    table = _keys
    record = IdempotencyRecord
    noun = "idempotency key"

    async def add(self, record: IdempotencyRecord) -> IdempotencyRecord:
        """Raises Unavailable when a twin of the request was quicker: the effect of this one is rolled back."""
        try:
            return await super().add(record)
        except exc.IntegrityError as error:
            raise Unavailable("The first request with this Idempotency-Key", "it ended just now; ask again.") from error

    async def hold(self, organisation: OrganisationId, user: UserId, key: str) -> None:
        """Let twins of a request wait for each other, until the transaction ends. SQLite has one writer anyway."""
        if self._connection.dialect.name == "postgresql":
            text = f"idempotency {organisation} {user} {key}"
            await self._execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(text, 0))))

    async def find_key(self, organisation: OrganisationId, user: UserId, key: str) -> IdempotencyRecord | None:
        return await self._one(
            self._select().where(_keys.c.organisation == organisation, _keys.c.user == user, _keys.c.key == key)
        )

    async def forget(self, *, before: dt.datetime) -> int:
        """Delete keys older than that."""
        return (await self._execute(sa.delete(_keys).where(_keys.c.created_at < before))).rowcount
