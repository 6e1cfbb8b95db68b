"""How do several changes become one fact?

A `UnitOfWork` is one transaction: every repository inside it sees and writes the same state, events go into the
outbox with their effects, and nothing is true before the block ends. Services and controllers get one and never
commit; the block that opened it does.

    async with store.writing() as work:
        app = await work.for_organisation(caller.organisation).apps.named("blog")
        await work.emit("app.stopped", subject=app.id, organisation=app.organisation)
"""

from __future__ import annotations

import contextlib
import datetime as dt
import secrets
from collections.abc import AsyncIterator, Callable, Collection, Hashable, Mapping
from typing import Any, Generic, TypeVar

import sqlalchemy as sa

from shellwego.control.store.apps import AppRepository
from shellwego.control.store.deployments import DeploymentRepository
from shellwego.control.store.engine import Connection, Database
from shellwego.control.store.events import DeadLetterRepository, OutboxRepository
from shellwego.control.store.failures import database_errors
from shellwego.control.store.idempotency import IdempotencyRepository
from shellwego.control.store.instances import InstanceRepository
from shellwego.control.store.nodes import EdgeRepository, NodeRepository
from shellwego.control.store.organisations import (
    CloudRepository,
    ImageMappingRepository,
    OrganisationRepository,
    UserRepository,
)
from shellwego.control.store.records import EventRecord
from shellwego.control.store.releases import ReleaseRepository
from shellwego.control.store.repository import THE_CLOUD, Scope
from shellwego.control.store.sources import SourceRepository
from shellwego.control.store.tokens import SessionRepository, TokenRepository
from shellwego.core.ids import OrganisationId, RandomBytes, new_id
from shellwego.kit.clock import Clock, utc_now
from shellwego.kit.faults import fault_point, reach

_BEFORE_COMMIT = fault_point("server.store.before_commit")
_COMMITTED = fault_point("server.store.committed")

R = TypeVar("R")
Listener = Callable[[Collection[EventRecord]], None]


class _Made(Generic[R]):
    """A repository that is made when it is first used: most units of work need two or three of them."""

    def __init__(self, kind: Callable[[Connection, Scope], R]) -> None:
        self.kind = kind

    def __set_name__(self, _owner: type, name: str) -> None:
        self._name = name

    def __get__(self, scoped: _Scoped, _owner: type) -> R:
        # From now on found on the object itself, before this descriptor is asked.
        made: R = scoped.__dict__.setdefault(self._name, self.kind(scoped._connection, scoped.scope))
        return made


class _Scoped:
    def __init__(self, connection: Connection, scope: Scope) -> None:
        self._connection, self.scope = connection, scope


class Tenant(_Scoped):
    """The repositories of what belongs to tenants, for one organisation or for the whole cloud."""

    apps = _Made(AppRepository)
    sources = _Made(SourceRepository)
    releases = _Made(ReleaseRepository)
    deployments = _Made(DeploymentRepository)
    instances = _Made(InstanceRepository)
    users = _Made(UserRepository)
    tokens = _Made(TokenRepository)
    outbox = _Made(OutboxRepository)


class UnitOfWork(_Scoped):
    """One transaction. `now` is one moment for all that it writes."""

    cloud = _Made(CloudRepository)
    organisations = _Made(OrganisationRepository)
    sessions = _Made(SessionRepository)
    nodes = _Made(NodeRepository)
    edges = _Made(EdgeRepository)
    image_mappings = _Made(ImageMappingRepository)
    dead_letters = _Made(DeadLetterRepository)
    idempotency = _Made(IdempotencyRepository)

    def __init__(self, connection: Connection, *, now: dt.datetime, random_bytes: RandomBytes) -> None:
        super().__init__(connection, THE_CLOUD)
        self.now = now
        self.events: list[EventRecord] = []
        self._random_bytes = random_bytes

    def for_organisation(self, organisation: OrganisationId) -> Tenant:
        """What one tenant may see and change."""
        return Tenant(self._connection, Scope(organisation))

    def for_the_cloud(self) -> Tenant:
        """Every tenant's rows: for controllers, links and operators."""
        return Tenant(self._connection, THE_CLOUD)

    def new_id(self, kind: str) -> str:
        return new_id(kind, self._random_bytes)

    async def emit(
        self,
        kind: str,
        *,
        subject: str,
        organisation: OrganisationId | None = None,
        payload: Mapping[str, Any] | None = None,
    ) -> EventRecord:
        """Append an event to the outbox. It is published if, and only if, this unit of work is committed."""
        event = await OutboxRepository(self._connection, THE_CLOUD).append(
            EventRecord(
                id=self.new_id("event"),
                kind=kind,
                subject=subject,
                created_at=self.now,
                organisation=organisation,
                payload=payload or {},
            )
        )
        self.events.append(event)
        return event

    async def ping(self) -> None:
        """Ask the database something. Raises Unavailable."""
        with database_errors():
            await self._connection.run_sync(lambda sync: sync.execute(sa.text("SELECT 1")))


class Store:
    """The database of one cloud, as units of work."""

    def __init__(self, url: str, *, clock: Clock = utc_now, random_bytes: RandomBytes = secrets.token_bytes) -> None:
        self.database = Database(url)
        self._clock, self._random_bytes = clock, random_bytes
        self._listeners: list[Listener] = []

    def on_commit(self, listener: Listener) -> None:
        """
        Tell `listener` of the events of each committed unit of work. A wake-up, no delivery: after a crash nobody is
        told, and the outbox still holds them.
        """
        self._listeners.append(listener)

    @contextlib.asynccontextmanager
    async def writing(self, *, durable: bool = True) -> AsyncIterator[UnitOfWork]:
        """
        A transaction that may write. Without `durable`, for what was seen and will be seen again, a power cut may take
        it back. Raises Unavailable when the database doesn't answer.
        """
        async with self.database.transaction(write=True, durable=durable) as connection:
            work = self._work(connection)
            yield work
            await reach(_BEFORE_COMMIT)
        await reach(_COMMITTED)
        if work.events:
            for listener in self._listeners:
                listener(tuple(work.events))

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncIterator[UnitOfWork]:
        """A transaction that only reads, never waiting for a writer. Raises Unavailable."""
        async with self.database.transaction(write=False) as connection:
            yield self._work(connection)

    async def version(self) -> Hashable:
        """Equal to an earlier answer only if nothing was committed in between, by any process. Raises Unavailable."""
        return await self.database.version()

    async def until_in_doubt(self) -> None:
        """Raises NotDurable when a commit could not be brought to the disk. Whoever uses the store must end then."""
        await self.database.until_in_doubt()

    async def close(self) -> None:
        await self.database.close()

    def _work(self, connection: Connection) -> UnitOfWork:
        return UnitOfWork(connection, now=self._clock(), random_bytes=self._random_bytes)
