"""API tokens and sessions, looked up by the hash of what the caller holds."""

from __future__ import annotations

import datetime as dt
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc

from shellwego.control.store import tables
from shellwego.control.store.organisations import OrganisationRepository, UserRepository
from shellwego.control.store.records import OrganisationRecord, SessionRecord, TokenRecord, UserRecord
from shellwego.control.store.repository import Repository
from shellwego.core.errors import AlreadyExists
from shellwego.core.ids import UserId

_tokens = tables.api_tokens
_sessions = tables.sessions
_users = tables.users
_organisations = tables.organisations


class TokenRepository(Repository[TokenRecord]):
    table = _tokens
    record = TokenRecord
    noun = "token"

    async def find_by_hash(self, secret_hash: str) -> TokenRecord | None:
        return await self._one(self._select().where(_tokens.c.secret_hash == secret_hash))

    async def find_holder(self, secret_hash: str) -> tuple[TokenRecord, UserRecord, OrganisationRecord] | None:
        """The token with that hash, whoever it belongs to, and its user: one query, since every request asks."""
        rows = await self._rows(self._prepared("holder", self._holder), sought=secret_hash)
        if not rows:
            return None
        row = rows[0]
        return TokenRecord(*row[:_T]), UserRecord(*row[_T : _T + _U]), OrganisationRecord(*row[_T + _U :])

    def _holder(self) -> sa.Select[Any]:
        columns = (*self.columns, *UserRepository.columns, *OrganisationRepository.columns)
        return sa.select(*columns).where(
            _tokens.c.secret_hash == sa.bindparam("sought"),
            _users.c.id == _tokens.c.user,
            _organisations.c.id == _tokens.c.organisation,
        )

    async def add(self, record: TokenRecord) -> TokenRecord:
        """Raises AlreadyExists when a token of that user that stands has this name."""
        try:
            return await super().add(record)
        except exc.IntegrityError as error:
            raise AlreadyExists("token", record.name) from error

    async def revoke_expired(self, user: UserId, name: str, *, now: dt.datetime) -> None:
        """What has expired holds no name."""
        expired = (_tokens.c.user == user, _tokens.c.name == name, _tokens.c.expires_at <= now)
        mine = sa.update(_tokens).where(self._mine(), *expired, _tokens.c.revoked_at.is_(None))
        await self._execute(mine.values(revoked_at=now))

    async def page(
        self, *, user: UserId, limit: int, before: tuple[dt.datetime, str] | None = None
    ) -> list[TokenRecord]:
        """A user's own that still stand, newest first."""
        statement = self._newest_first(limit=limit, before=before)
        return await self._all(statement.where(_tokens.c.user == user, _tokens.c.revoked_at.is_(None)))


class SessionRepository(Repository[SessionRecord]):
    table = _sessions
    record = SessionRecord
    noun = "session"

    async def find_by_hash(self, refresh_hash: str) -> SessionRecord | None:
        """The session whose current or previous refresh token this is, held until the transaction ends."""
        mine = sa.or_(_sessions.c.refresh_hash == refresh_hash, _sessions.c.previous_refresh_hash == refresh_hash)
        return await self._one(self._select().where(mine).with_for_update())

    async def find_holder(self, id: str) -> tuple[SessionRecord, UserRecord, OrganisationRecord] | None:
        """The session and its user: one query, since every request asks."""
        rows = await self._rows(self._prepared("holder", self._holder), sought=id)
        if not rows:
            return None
        row = rows[0]
        return SessionRecord(*row[:_S]), UserRecord(*row[_S : _S + _U]), OrganisationRecord(*row[_S + _U :])

    def _holder(self) -> sa.Select[Any]:
        columns = (*self.columns, *UserRepository.columns, *OrganisationRepository.columns)
        return sa.select(*columns).where(
            _sessions.c.id == sa.bindparam("sought"),
            _users.c.id == _sessions.c.user,
            _organisations.c.id == _users.c.organisation,
        )

    async def forget_ended(self, *, before: dt.datetime) -> int:
        """Delete sessions that ended before that time."""
        gone = sa.or_(_sessions.c.expires_at < before, _sessions.c.revoked_at < before)
        return (await self._execute(sa.delete(_sessions).where(gone))).rowcount


_T, _S, _U = len(TokenRepository.fields), len(SessionRepository.fields), len(UserRepository.fields)
