"""Organisations, their users, and the cloud they are all part of."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import exc

from shellwego.control.store import tables
from shellwego.control.store.records import CloudRecord, ImageMappingRecord, OrganisationRecord, UserRecord
from shellwego.control.store.repository import Repository
from shellwego.core.errors import AlreadyExists, NotFound
from shellwego.core.ids import is_id

_organisations = tables.organisations
_users = tables.users
_mappings = tables.image_mappings


class OrganisationRepository(Repository[OrganisationRecord]):
    table = _organisations
    record = OrganisationRecord
    noun = "organisation"

    async def add(self, record: OrganisationRecord) -> OrganisationRecord:
        """Raises AlreadyExists."""
        try:
            return await super().add(record)
        except exc.IntegrityError as error:
            raise AlreadyExists("organisation", record.name) from error

    async def find_named(self, reference: str) -> OrganisationRecord | None:
        column = _organisations.c.id if is_id(reference, "organisation") else _organisations.c.name
        return await self._one(self._select().where(column == reference))

    async def page(self, *, limit: int, after: str | None = None) -> list[OrganisationRecord]:
        """In the order of names."""
        statement = self._select().order_by(_organisations.c.name).limit(limit)
        return await self._all(statement if after is None else statement.where(_organisations.c.name > after))


class UserRepository(Repository[UserRecord]):
    table = _users
    record = UserRecord
    noun = "user"

    async def add(self, record: UserRecord) -> UserRecord:
        """Raises AlreadyExists."""
        try:
            return await super().add(record)
        except exc.IntegrityError as error:
            raise AlreadyExists("user", record.email) from error

    async def find_by_email(self, email: str) -> UserRecord | None:
        return await self._one(self._select().where(_users.c.email == email.lower()))

    async def page(self, *, limit: int, after: str | None = None) -> list[UserRecord]:
        """In the order of addresses."""
        statement = self._select().order_by(_users.c.email).limit(limit)
        return await self._all(statement if after is None else statement.where(_users.c.email > after))


class CloudRepository(Repository[CloudRecord]):
    """One row, written when the cloud begins."""

    table = tables.cloud
    record = CloudRecord
    noun = "cloud"

    async def add(self, record: CloudRecord) -> CloudRecord:
        await self._execute(sa.insert(tables.cloud).values(singleton=1, **self._values(record)))
        return record

    async def find_it(self) -> CloudRecord | None:
        return await self._one(self._select())

    async def get_it(self) -> CloudRecord:
        """Raises NotFound before the cloud was set up."""
        found = await self.find_it()
        if found is None:
            raise NotFound("cloud", "this database")
        return found

    async def next_epoch(self) -> int:
        """Count one more start of a server."""
        epoch = tables.cloud.c.assignment_epoch
        statement = sa.update(tables.cloud).values(assignment_epoch=epoch + 1).returning(epoch)
        return await self._count(statement)

    async def set_domain(self, domain: str) -> None:
        await self._execute(sa.update(tables.cloud).values(domain=domain))


class ImageMappingRepository(Repository[ImageMappingRecord]):
    table = _mappings
    record = ImageMappingRecord
    noun = "image mapping"

    async def all(self) -> list[ImageMappingRecord]:
        """In the order of patterns."""
        return await self._all(self._select().order_by(_mappings.c.pattern))

    async def put(self, record: ImageMappingRecord) -> ImageMappingRecord:
        """Write it, in place of one with the same pattern."""
        where = _mappings.c.pattern == record.pattern
        changed = await self._one(sa.update(_mappings).where(where).values(image=record.image).returning(*self.columns))
        return changed if changed is not None else await self.add(record)

    async def remove(self, pattern: str) -> None:
        """Raises NotFound."""
        gone = await self._execute(sa.delete(_mappings).where(_mappings.c.pattern == pattern))
        if gone.rowcount == 0:
            raise NotFound("image mapping", pattern)
