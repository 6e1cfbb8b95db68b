"""Who may see which rows, and what may become of them?

A tenant's repository is made for one organisation and filters every statement by it; another organisation's object
is as absent as one that never was. Controllers and operators ask for the whole cloud explicitly. There is no third
way to make one. Moves of a state are checked here too, against the tables in `core`, so no caller can forget it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import sqlalchemy as sa

from shellwego.control.store.engine import Connection
from shellwego.control.store.failures import database_errors
from shellwego.control.store.prepared import Prepared
from shellwego.core import deployments as deployment_moves
from shellwego.core import instances as instance_moves
from shellwego.core.deployments import DeploymentState
from shellwego.core.errors import Conflict, NotFound
from shellwego.core.ids import OrganisationId
from shellwego.core.instances import InstanceState

R = TypeVar("R")
_TENANT = "tenant"
_ID = re.compile(r"[\x21-\x7e]{1,253}")


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose rows: one organisation's, or, with None, the whole cloud's."""

    organisation: OrganisationId | None


THE_CLOUD = Scope(None)


def ensure_move(now: DeploymentState | InstanceState, then: DeploymentState | InstanceState) -> None:
    """Raises Conflict for a move that its table in `core` doesn't allow."""
    if isinstance(now, DeploymentState) and isinstance(then, DeploymentState):
        allowed = deployment_moves.may_move(now, then)
    elif isinstance(now, InstanceState) and isinstance(then, InstanceState):
        allowed = instance_moves.may_move(now, then)
    else:
        raise TypeError("states of two kinds")
    if not allowed:
        raise Conflict(f"It is {now.value} and can't become {then.value} any more.")


class Repository(Generic[R]):
    """
    Rows of one table, as records. Subclasses name the table, the record and what people call the thing; rows are read
    in the order of the record's fields.
    """

    table: ClassVar[sa.Table]
    record: ClassVar[type[Any]]
    noun: ClassVar[str]
    fields: ClassVar[tuple[str, ...]]
    columns: ClassVar[tuple[sa.Column[Any], ...]]
    _built: ClassVar[dict[tuple[str, bool], Prepared]]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.fields = tuple(field.name for field in dataclasses.fields(cls.record))
        cls.columns = tuple(cls.table.c[name] for name in cls.fields)
        cls._built = {}

    def __init__(self, connection: Connection, scope: Scope) -> None:
        self._connection = connection
        self.scope = scope

    async def add(self, record: R) -> R:
        """Insert. Raises sqlalchemy's IntegrityError, which subclasses turn into AlreadyExists where it can happen."""
        values = self._values(record)
        if self._is_tenants and self.scope.organisation not in {None, values["organisation"]}:
            raise NotFound("organisation", str(values["organisation"]))
        await self._rows(self._prepared("add", lambda: sa.insert(self.table)), **values)
        return record

    async def find(self, id: str) -> R | None:
        statement = self._prepared("find", lambda: self._select().where(self.table.c.id == sa.bindparam("sought")))
        return await self._one(statement, sought=id)

    async def get(self, id: str) -> R:
        """Raises NotFound, also for what can't be an id."""
        found = await self.find(id) if _ID.fullmatch(id) else None
        if found is None:
            raise NotFound(self.noun, id[:60])
        return found

    async def update(self, id: str, **changes: Any) -> R:
        """Change the named columns and nothing else; the record after it. Raises NotFound."""
        changed = await self._one(
            sa.update(self.table).where(self.table.c.id == id, self._mine()).values(**changes).returning(*self.columns)
        )
        if changed is None:
            raise NotFound(self.noun, id)
        return changed

    @property
    def _is_tenants(self) -> bool:
        return "organisation" in self.table.c

    def _mine(self) -> sa.ColumnElement[bool]:
        """The one tenant filter."""
        if self.scope.organisation is None or not self._is_tenants:
            return sa.true()
        return self.table.c.organisation == sa.bindparam(_TENANT, self.scope.organisation)

    def _select(self) -> sa.Select[Any]:
        return sa.select(*self.columns).where(self._mine())

    def _prepared(self, name: str, build: Callable[[], sa.Executable]) -> Prepared:
        """A statement that is asked for all the time, built at the first time."""
        key = name, self.scope.organisation is None
        statement = self._built.get(key)
        if statement is None:
            statement = self._built[key] = Prepared(build())
        return statement

    def _values(self, record: R) -> dict[str, Any]:
        return {name: getattr(record, name) for name in self.fields}

    def _read(self, row: Sequence[Any]) -> R:
        record: R = self.record(*row)
        return record

    async def _execute(self, statement: sa.Executable, **values: Any) -> sa.CursorResult[Any]:
        """With `values` for what the statement leaves open."""
        with database_errors():
            result = await self._connection.run_sync(sa.Connection.execute, statement, self._bound(statement, values))
        assert isinstance(result, sa.CursorResult)  # Its rows are fetched without waiting on either database.
        return result

    async def _rows(self, statement: Prepared | sa.Executable, **values: Any) -> Sequence[Sequence[Any]]:
        """All rows, with `values` for what the statement leaves open."""
        if isinstance(statement, Prepared):
            with database_errors():
                return await self._connection.rows(statement, self._bound(statement.statement, values))
        return (await self._execute(statement, **values)).all()

    def _bound(self, statement: sa.Executable, values: dict[str, Any]) -> dict[str, Any]:
        """The tenant's filter is bound here, whatever the statement."""
        if values and self.scope.organisation is not None and not isinstance(statement, sa.Insert):
            values[_TENANT] = self.scope.organisation
        return values

    async def _one(self, statement: Prepared | sa.Executable, **values: Any) -> R | None:
        rows = await self._rows(statement, **values)
        return self._read(rows[0]) if rows else None

    async def _all(self, statement: Prepared | sa.Executable, **values: Any) -> list[R]:
        return [self._read(row) for row in await self._rows(statement, **values)]

    async def _count(self, statement: sa.Executable) -> int:
        return int((await self._execute(statement)).scalar_one())

    def _newest_first(self, *, limit: int, before: tuple[Any, str] | None) -> sa.Select[Any]:
        """A page by (created_at, id), going back in time; `before` is the last row of the page before."""
        created, id = self.table.c.created_at, self.table.c.id
        statement = self._select().order_by(created.desc(), id.desc()).limit(limit)
        if before is not None:
            at, last = before
            statement = statement.where(sa.or_(created < at, sa.and_(created == at, id < last)))
        return statement
