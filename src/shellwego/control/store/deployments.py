"""Deployments: how each app goes from one release to the next."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection
from typing import Any

import sqlalchemy as sa

from shellwego.control.store import tables
from shellwego.control.store.records import DeploymentRecord
from shellwego.control.store.repository import Repository, ensure_move
from shellwego.core.deployments import DeploymentState
from shellwego.core.ids import AppId, DeploymentId

_deployments = tables.deployments
_by_age = (_deployments.c.created_at, _deployments.c.id)


class DeploymentRepository(Repository[DeploymentRecord]):
    table = _deployments
    record = DeploymentRecord
    noun = "deployment"

    async def move(self, id: DeploymentId, to: DeploymentState, **changes: Any) -> DeploymentRecord:
        """Change the state, and other columns with it. Raises Conflict for a move that isn't allowed, NotFound."""
        now = await self._one(self._select().where(_deployments.c.id == id).with_for_update())
        if now is None:
            return await self.get(id)
        ensure_move(now.state, to)
        return await self.update(id, state=to, **changes)

    async def page(
        self, app: AppId, *, limit: int, before: tuple[dt.datetime, str] | None = None
    ) -> list[DeploymentRecord]:
        """Newest first."""
        return await self._all(self._newest_first(limit=limit, before=before).where(_deployments.c.app == app))

    async def unfinished(self) -> list[DeploymentRecord]:
        """All that are under way, oldest first."""
        return await self._all(self._select().where(_deployments.c.finished_at.is_(None)).order_by(*_by_age))

    async def unfinished_of(self, app: AppId) -> DeploymentRecord | None:
        """The one that is under way for an app; there is at most one."""
        unfinished = self._select().where(_deployments.c.app == app, _deployments.c.finished_at.is_(None))
        return await self._one(unfinished.order_by(*(column.desc() for column in _by_age)).limit(1))

    async def newest_of(self, apps: Collection[AppId]) -> dict[AppId, DeploymentRecord]:
        """The newest deployment of each app that has one."""
        if not apps:
            return {}
        found = await self._all(self._prepared("newest", self._newest_of), sought=list(apps))
        return {deployment.app: deployment for deployment in found}

    def _newest_of(self) -> sa.Select[Any]:
        rank = sa.func.row_number().over(
            partition_by=_deployments.c.app, order_by=tuple(column.desc() for column in _by_age)
        )
        of_apps = _deployments.c.app.in_(sa.bindparam("sought", expanding=True))
        ranked = sa.select(_deployments.c.id, rank.label("rank")).where(of_apps).subquery()
        newest = sa.select(ranked.c.id).where(ranked.c.rank == 1)
        return self._select().where(_deployments.c.id.in_(newest))
