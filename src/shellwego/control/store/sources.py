"""Uploaded sources: where their archives lie."""

from __future__ import annotations

from shellwego.control.store import tables
from shellwego.control.store.records import SourceRecord
from shellwego.control.store.repository import Repository
from shellwego.core.ids import AppId

_sources = tables.sources


class SourceRepository(Repository[SourceRecord]):
    table = _sources
    record = SourceRecord
    noun = "source"

    async def of_app(self, app: AppId) -> list[SourceRecord]:
        """Newest first."""
        by_age = (_sources.c.created_at.desc(), _sources.c.id.desc())
        return await self._all(self._select().where(_sources.c.app == app).order_by(*by_age))

    async def paths(self) -> frozenset[str]:
        """Every archive that a row names; a file that none names is garbage."""
        return frozenset(source.path for source in await self._all(self._select()))
