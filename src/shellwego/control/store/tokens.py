"""API tokens and sessions, looked up by the hash of what the caller holds."""

from __future__ import annotations

import datetime as dt
from typing import Any

import sqlalchemy as sa

from shellwego.control.store import tables
from shellwego.control.store.records import OrganisationRecord, SessionRecord, TokenRecord, UserRecord
from shellwego.control.store.repository import Repository
from shellwego.core.ids import UserId

_tokens = tables.api_tokens
_sessions = tables.sessions
_users = tables.users
_organisations = tables.organisations


def _part(row: sa.Row[Any], table: sa.Table) -> dict[str, Any]:
    """The columns of one table in a joined row, where names repeat."""
    return {column.name: row._mapping[column] for column in table.c}


def _organisation(row: sa.Row[Any]) -> OrganisationRecord:
    return OrganisationRecord(**_part(row, _organisations))


class TokenRepository(Repository[TokenRecord]):
    table = _tokens
    record = TokenRecord
    noun = "token"

    async def find_by_hash(self, secret_hash: str) -> TokenRecord | None:
        return await self._one(self._select().where(_tokens.c.secret_hash == secret_hash))

    async def find_holder(self, secret_hash: str) -> tuple[TokenRecord, UserRecord, OrganisationRecord] | None:
        """The token with that hash, whoever it belongs to, and its user: one query, since every request asks."""
        statement = sa.select(_tokens, _users, _organisations).where(
            _tokens.c.secret_hash == secret_hash,
            _users.c.id == _tokens.c.user,
            _organisations.c.id == _tokens.c.organisation,
        )
        row = (await self._execute(statement)).first()
        if row is None:
            return None
        return TokenRecord(**_part(row, _tokens)), UserRecord(**_part(row, _users)), _organisation(row)

    async def is_held(self, user: UserId, name: str, *, now: dt.datetime) -> bool:
        """Whether a token of that user that opens something has this name."""
        stands = sa.and_(
            _tokens.c.user == user,
            _tokens.c.name == name,
            _tokens.c.revoked_at.is_(None),
            sa.or_(_tokens.c.expires_at.is_(None), _tokens.c.expires_at > now),
        )
        return await self._one(self._select().where(stands).limit(1)) is not None

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
        statement = sa.select(_sessions, _users, _organisations).where(
            _sessions.c.id == id, _users.c.id == _sessions.c.user, _organisations.c.id == _users.c.organisation
        )
        row = (await self._execute(statement)).first()
        if row is None:
            return None
        return SessionRecord(**_part(row, _sessions)), UserRecord(**_part(row, _users)), _organisation(row)

    async def forget_ended(self, *, before: dt.datetime) -> int:
        """Delete sessions that ended before that time."""
        gone = sa.or_(_sessions.c.expires_at < before, _sessions.c.revoked_at < before)
        return (await self._execute(sa.delete(_sessions).where(gone))).rowcount
