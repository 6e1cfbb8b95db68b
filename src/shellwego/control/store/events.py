"""The outbox: every event, written with its effect; and what could not be delivered."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Collection

import sqlalchemy as sa

from shellwego.control.store import tables
from shellwego.control.store.records import DeadLetterRecord, EventRecord
from shellwego.control.store.repository import Repository

_outbox = tables.outbox


class OutboxRepository(Repository[EventRecord]):
    table = _outbox
    record = EventRecord
    noun = "event"

    async def append(self, event: EventRecord) -> EventRecord:
        """The event, with the number that the database gave it."""
        values = self._values(event)
        del values["seq"]
        statement = self._prepared("append", lambda: sa.insert(_outbox).returning(_outbox.c.seq))
        ((seq,),) = await self._rows(statement, **values)
        return dataclasses.replace(event, seq=seq)

    async def unpublished(self, *, limit: int = 100) -> list[EventRecord]:
        """
        Oldest first. Ask for those that aren't published, never for those above a number: on PostgreSQL numbers are
        given before the commit, so a lower one can appear after a higher.
        """
        return await self._all(
            self._select().where(_outbox.c.published_at.is_(None)).order_by(_outbox.c.seq).limit(limit)
        )

    async def mark_published(self, seqs: Collection[int], at: dt.datetime) -> None:
        await self._execute(sa.update(_outbox).where(_outbox.c.seq.in_(list(seqs))).values(published_at=at))

    async def of_subjects(self, subjects: Collection[str], *, after: int = 0, limit: int = 500) -> list[EventRecord]:
        """What happened to some things, oldest first."""
        mine = self._select().where(_outbox.c.subject.in_(list(subjects)), _outbox.c.seq > after)
        return await self._all(mine.order_by(_outbox.c.seq).limit(limit))

    async def forget_published(self, *, before: dt.datetime) -> int:
        """Delete what was published before that time."""
        return (await self._execute(sa.delete(_outbox).where(_outbox.c.published_at < before))).rowcount


class DeadLetterRepository(Repository[DeadLetterRecord]):
    table = tables.dead_letters
    record = DeadLetterRecord
    noun = "dead letter"

    async def all(self, *, limit: int = 100) -> list[DeadLetterRecord]:
        return await self._all(self._select().order_by(tables.dead_letters.c.created_at).limit(limit))

    async def remove(self, id: str) -> None:
        await self._execute(sa.delete(tables.dead_letters).where(tables.dead_letters.c.id == id))
