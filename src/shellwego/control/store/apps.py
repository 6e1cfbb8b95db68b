"""Apps and how many instances of each process type they should have."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc

from shellwego.control.store import tables
from shellwego.control.store.records import AppRecord
from shellwego.control.store.repository import Repository
from shellwego.core.apps import is_app_name
from shellwego.core.errors import AlreadyExists, NotFound
from shellwego.core.ids import AppId, is_id

_apps = tables.apps
_processes = tables.app_processes


class AppRepository(Repository[AppRecord]):
    """Deleted apps are history: nothing here shows them."""

    table = _apps
    record = AppRecord
    noun = "app"

    def _select(self) -> sa.Select[Any]:
        return super()._select().where(_apps.c.deleted_at.is_(None))

    async def add(self, record: AppRecord) -> AppRecord:
        """Raises AlreadyExists, also when another organisation holds the name."""
        try:
            return await super().add(record)
        except exc.IntegrityError as error:
            raise AlreadyExists("app", record.name) from error

    async def named(self, reference: str) -> AppRecord:
        """By id or name. Raises NotFound."""
        if not (is_id(reference, "app") or is_app_name(reference)):
            raise NotFound("app", reference[:60])  # What can be neither never reaches a database that may choke on it.
        name = "id" if is_id(reference, "app") else "name"
        statement = self._prepared(
            f"named by {name}", lambda: self._select().where(_apps.c[name] == sa.bindparam("sought"))
        )
        found = await self._one(statement, sought=reference)
        if found is None:
            raise NotFound("app", reference)
        return found

    async def lock(self, id: AppId) -> AppRecord:
        """
        The app, held against other writers until the transaction ends. Whoever changes what an app should be (its
        deployments, release numbers, replicas) holds it first; SQLite has one writer anyway. Raises NotFound.
        """
        found = await self._one(self._select().where(_apps.c.id == id).with_for_update())
        if found is None:
            raise NotFound("app", id)
        return found

    async def page(self, *, limit: int, after: str | None = None, name: str | None = None) -> list[AppRecord]:
        """In the order of names; `after` is the last name of the page before."""

        def build() -> sa.Select[Any]:
            statement = self._select().order_by(_apps.c.name).limit(sa.bindparam("most", type_=sa.Integer))
            if after is not None:
                statement = statement.where(_apps.c.name > sa.bindparam("after"))
            if name is not None:
                statement = statement.where(_apps.c.name == sa.bindparam("only"))
            return statement

        statement = self._prepared(f"page {after is None} {name is None}", build)
        return await self._all(statement, most=limit, after=after, only=name)

    async def some(self, ids: Collection[AppId]) -> list[AppRecord]:
        """Those of the ids that exist."""
        return await self._all(self._select().where(_apps.c.id.in_(list(ids)))) if ids else []

    async def count(self) -> int:
        return await self._count(sa.select(sa.func.count()).select_from(self._select().subquery()))

    async def gone(self, *, since: dt.datetime, among: Collection[AppId] | None = None) -> list[AppId]:
        """Those, of all or of `among`, that are being deleted, or were since then."""
        deleted = sa.or_(_apps.c.deleted_at.is_(None), _apps.c.deleted_at >= since)
        statement = sa.select(_apps.c.id).where(self._mine(), _apps.c.deleting_at.is_not(None), deleted)
        if among is not None:
            statement = statement.where(_apps.c.id.in_(list(among)))
        return [row.id for row in await self._execute(statement.order_by(_apps.c.id))]

    async def replicas(self, app: AppId) -> dict[str, int]:
        """How many instances of each process type there should be when the app runs."""
        return (await self.replicas_of((app,)))[app]

    async def replicas_of(self, apps: Collection[AppId]) -> dict[AppId, dict[str, int]]:
        found: dict[AppId, dict[str, int]] = {app: {} for app in apps}
        statement = self._prepared("replicas", self._replicas)
        for app, process, count in await self._rows(statement, sought=list(apps)):
            found[app][process] = count
        return found

    async def set_replicas(self, app: AppRecord, replicas: Mapping[str, int]) -> None:
        """Change the named process types only. The caller holds the app (`lock`)."""
        known = await self.replicas(app.id)
        for process, count in replicas.items():
            if process in known:
                where = (_processes.c.app == app.id, _processes.c.process == process)
                await self._execute(sa.update(_processes).where(*where).values(replicas=count))
            else:
                values = {"organisation": app.organisation, "app": app.id, "process": process, "replicas": count}
                await self._execute(sa.insert(_processes).values(values))

    def _replicas(self) -> sa.Select[Any]:
        of_apps = _processes.c.app.in_(sa.bindparam("sought", expanding=True))
        statement = sa.select(_processes.c.app, _processes.c.process, _processes.c.replicas).where(of_apps)
        if self.scope.organisation is not None:
            statement = statement.where(_processes.c.organisation == sa.bindparam("tenant"))
        return statement.order_by(_processes.c.process)
