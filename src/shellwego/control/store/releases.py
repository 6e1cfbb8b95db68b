"""Releases: written once, never changed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa

from shellwego.control.store import tables
from shellwego.control.store.records import ReleaseRecord
from shellwego.control.store.release_specs import spec_from_json, spec_to_json
from shellwego.control.store.repository import Repository
from shellwego.core.deployments import DeploymentKind, DeploymentState
from shellwego.core.ids import AppId, ReleaseId

_releases = tables.releases
_deployments = tables.deployments


class ReleaseRepository(Repository[ReleaseRecord]):
    table = _releases
    record = ReleaseRecord
    noun = "release"

    def _values(self, record: ReleaseRecord) -> dict[str, Any]:
        return super()._values(record) | {"spec": spec_to_json(record.spec)}

    def _read(self, row: Sequence[Any]) -> ReleaseRecord:
        values = list(row)
        values[_SPEC] = spec_from_json(values[_SPEC])
        return ReleaseRecord(*values)

    async def update(self, id: str, **changes: Any) -> ReleaseRecord:
        """Never: a release is immutable."""
        raise TypeError("a release is immutable")

    async def some(self, ids: Collection[ReleaseId | None]) -> dict[ReleaseId, ReleaseRecord]:
        """Those of the ids that exist (None is passed over)."""
        wanted = [id for id in ids if id is not None]
        if not wanted:
            return {}
        found = await self._all(self._prepared("some", self._some), sought=wanted)
        return {release.id: release for release in found}

    def _some(self) -> sa.Select[Any]:
        return self._select().where(_releases.c.id.in_(sa.bindparam("sought", expanding=True)))

    async def numbered(self, app: AppId, number: int) -> ReleaseRecord | None:
        return await self._one(self._select().where(_releases.c.app == app, _releases.c.number == number))

    async def page(self, app: AppId, *, limit: int, before: int | None = None) -> list[ReleaseRecord]:
        """Highest number first; `before` is the last number of the page before."""
        statement = self._select().where(_releases.c.app == app).order_by(_releases.c.number.desc()).limit(limit)
        if before is not None:
            statement = statement.where(_releases.c.number < before)
        return await self._all(statement)

    async def last_good_before(self, app: AppId, number: int) -> ReleaseRecord | None:
        """The newest release under that number whose deployment once succeeded."""
        good = sa.select(_deployments.c.release).where(
            _deployments.c.app == app, _deployments.c.state == DeploymentState.SUCCEEDED
        )
        statement = self._select().where(_releases.c.app == app, _releases.c.number < number, _releases.c.id.in_(good))
        return await self._one(statement.order_by(_releases.c.number.desc()).limit(1))

    async def outcomes(
        self, app: AppId, ids: Collection[ReleaseId]
    ) -> dict[ReleaseId, tuple[bool, DeploymentState, DeploymentKind]]:
        """For each that was ever deployed: whether that ever succeeded, and state and kind of its newest deployment."""
        succeeded = sa.func.max(sa.case((_deployments.c.state == DeploymentState.SUCCEEDED, 1), else_=0))
        rank = sa.func.row_number().over(
            partition_by=_deployments.c.release, order_by=(_deployments.c.created_at.desc(), _deployments.c.id.desc())
        )
        ranked = (
            sa.select(
                _deployments.c.release,
                _deployments.c.state,
                _deployments.c.kind,
                succeeded.over(partition_by=_deployments.c.release).label("ran_well"),
                rank.label("rank"),
            )
            .where(_deployments.c.app == app, _deployments.c.release.in_(list(ids)))
            .subquery()
        )
        rows = await self._execute(sa.select(ranked).where(ranked.c.rank == 1))
        return {row.release: (bool(row.ran_well), DeploymentState(row.state), DeploymentKind(row.kind)) for row in rows}

    async def images(self) -> frozenset[str]:
        """Every image that a release of a living app names."""
        statement = sa.select(_releases.c.image).where(self._mine(), _releases.c.app.in_(_living_apps())).distinct()
        return frozenset(row.image for row in await self._execute(statement))

    async def images_to_keep(self, *, newest: int) -> frozenset[str]:
        """
        The images of each living app's `newest` releases, its current one, those that instances still run and those
        that are on their way. Any other may be collected: an app that is deployed every day must not fill the disk.
        """
        rank = sa.func.row_number().over(partition_by=_releases.c.app, order_by=_releases.c.number.desc())
        ranked = sa.select(_releases.c.id, rank.label("rank")).where(_releases.c.app.in_(_living_apps())).subquery()
        instances = tables.instances
        kept = sa.or_(
            _releases.c.id.in_(sa.select(ranked.c.id).where(ranked.c.rank <= newest)),
            _releases.c.id.in_(sa.select(tables.apps.c.current_release).where(tables.apps.c.deleted_at.is_(None))),
            _releases.c.id.in_(sa.select(instances.c.release).where(instances.c.removed_at.is_(None))),
            _releases.c.id.in_(sa.select(_deployments.c.release).where(_deployments.c.finished_at.is_(None))),
        )
        statement = sa.select(_releases.c.image).where(self._mine(), kept).distinct()
        return frozenset(row.image for row in await self._execute(statement))


_SPEC = ReleaseRepository.fields.index("spec")


def _living_apps() -> sa.Select[tuple[str]]:
    return sa.select(tables.apps.c.id).where(tables.apps.c.deleted_at.is_(None))
