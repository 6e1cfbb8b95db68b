"""Instances: what should run, and what was seen to run."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa

from shellwego.control.store import tables
from shellwego.control.store.records import InstanceRecord
from shellwego.control.store.repository import Repository
from shellwego.core.errors import Conflict
from shellwego.core.ids import AppId, DeploymentId, InstanceId, NodeId
from shellwego.core.instances import InstanceGoal, InstanceState, may_move

_instances = tables.instances
_GOALS_DOWNWARDS = (InstanceGoal.RUN, InstanceGoal.DRAIN, InstanceGoal.STOP)


class InstanceRepository(Repository[InstanceRecord]):
    """`living` rows are those that aren't gone from their node (`removed_at` is unset)."""

    table = _instances
    record = InstanceRecord
    noun = "instance"

    async def set_goal(self, id: InstanceId, goal: InstanceGoal, **changes: Any) -> InstanceRecord:
        """A goal only ever moves downwards: run, drain, stop. Raises Conflict, NotFound."""
        now = await self.get(id)
        if _GOALS_DOWNWARDS.index(goal) < _GOALS_DOWNWARDS.index(now.goal):
            raise Conflict(f"Instance {id} should {now.goal.value}; it can't be told to {goal.value} again.")
        return await self.update(id, goal=goal, **changes)

    async def observe(self, before: InstanceRecord, state: InstanceState, **seen: Any) -> InstanceRecord | None:
        """
        Write what its node saw. None, and nothing written, for an instance that is not in the state that it was in
        `before`, and for a move that isn't allowed: a late report may not bring back what is gone.
        """
        if not may_move(before.state, state):
            return None
        changes = {"state": state, **seen}
        statement = self._prepared(f"observe {' '.join(sorted(changes))}", lambda: self._observe(changes))
        given = {f"new_{name}": value for name, value in changes.items()}
        return await self._one(statement, sought=before.id, was=before.state, **given)

    async def living(self) -> list[InstanceRecord]:
        return await self._all(self._living().order_by(_instances.c.created_at, _instances.c.id))

    async def of_app(self, app: AppId) -> list[InstanceRecord]:
        """Living ones, oldest first."""
        return await self._all(
            self._living().where(_instances.c.app == app).order_by(_instances.c.created_at, _instances.c.id)
        )

    async def of_apps(self, apps: Collection[AppId]) -> dict[AppId, list[InstanceRecord]]:
        """Living ones of each app, oldest first; an app without any has an empty list."""
        found: dict[AppId, list[InstanceRecord]] = {app: [] for app in apps}
        if apps:
            statement = self._prepared("of apps", self._of_apps)
            for instance in await self._all(statement, sought=list(apps)):
                found[instance.app].append(instance)
        return found

    async def on_node(self, node: NodeId) -> list[InstanceRecord]:
        """Living ones of a node, oldest first."""
        return await self._all(
            self._living().where(_instances.c.node == node).order_by(_instances.c.created_at, _instances.c.id)
        )

    async def some_on_node(self, node: NodeId, ids: Collection[InstanceId]) -> list[InstanceRecord]:
        """Those living ones of a node that have these ids."""
        if not ids:
            return []
        statement = self._prepared("some on node", self._some_on_node)
        return await self._all(statement, of_node=node, sought=list(ids))

    async def ids_of_deployment(self, deployment: DeploymentId) -> list[InstanceId]:
        """Those that it made, gone ones too."""
        statement = sa.select(_instances.c.id).where(self._mine(), _instances.c.deployment == deployment)
        return [row.id for row in await self._execute(statement)]

    async def recent_of_app(self, app: AppId, *, limit: int) -> list[InstanceRecord]:
        """Newest first, gone ones too."""
        return await self._all(self._newest_first(limit=limit, before=None).where(_instances.c.app == app))

    async def page(
        self, *, limit: int, before: tuple[Any, str] | None = None, app: AppId | None = None
    ) -> list[InstanceRecord]:
        """Living ones, newest first."""
        statement = self._newest_first(limit=limit, before=before).where(_instances.c.removed_at.is_(None))
        return await self._all(statement if app is None else statement.where(_instances.c.app == app))

    async def count_by_state(self) -> dict[InstanceState, int]:
        statement = (
            sa.select(_instances.c.state, sa.func.count().label("total"))
            .where(self._mine(), _instances.c.removed_at.is_(None))
            .group_by(_instances.c.state)
        )
        return {row.state: row.total for row in await self._execute(statement)}

    async def forget_removed(self, *, before: Any) -> int:
        """Delete the rows of instances that were gone before that time."""
        gone = sa.delete(_instances).where(self._mine(), _instances.c.removed_at < before)
        return (await self._execute(gone)).rowcount

    def _living(self) -> sa.Select[Any]:
        return self._select().where(_instances.c.removed_at.is_(None))

    def _of_apps(self) -> sa.Select[Any]:
        of_apps = _instances.c.app.in_(sa.bindparam("sought", expanding=True))
        return self._living().where(of_apps).order_by(_instances.c.created_at, _instances.c.id)

    def _some_on_node(self) -> sa.Select[Any]:
        sought = _instances.c.id.in_(sa.bindparam("sought", expanding=True))
        return self._living().where(_instances.c.node == sa.bindparam("of_node"), sought)

    def _observe(self, changes: Collection[str]) -> sa.Executable:
        values = {name: sa.bindparam(f"new_{name}", type_=_instances.c[name].type) for name in changes}
        was = _instances.c.state == sa.bindparam("was", type_=_instances.c.state.type)
        here = _instances.c.id == sa.bindparam("sought")
        return sa.update(_instances).where(here, was, self._mine()).values(values).returning(*self.columns)
