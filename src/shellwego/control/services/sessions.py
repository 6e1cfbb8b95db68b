"""Who is signed in?

A login gives an access token for minutes and a refresh token that works once. A refresh token that comes a second
time was stolen from someone: its whole session ends. Both die with their session, and with their user.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from dataclasses import dataclass

from shellwego.control.services.callers import Caller
from shellwego.control.services.passwords import Passwords
from shellwego.control.services.signing import ACCESS_SECONDS, Claims, SigningKey
from shellwego.control.store import Store, UnitOfWork
from shellwego.control.store.records import OrganisationRecord, SessionRecord, UserRecord
from shellwego.core.errors import Unauthenticated
from shellwego.core.ids import RandomBytes, TokenId
from shellwego.protocol import public

SESSION_DAYS = 30
_REFRESH_PREFIX = "swr_"
_WRONG = "The address or the password is wrong."


@dataclass(frozen=True, slots=True)
class Issuer:
    """What it takes to hand out tokens."""

    key: SigningKey
    passwords: Passwords
    random_bytes: RandomBytes


def hash_secret(secret: str) -> str:
    """How tokens are kept: 256 random bits need no salt and no slow hash."""
    return hashlib.sha256(secret.encode()).hexdigest()


async def login(store: Store, issuer: Issuer, email: str, password: str) -> public.Session:
    """Raises Unauthenticated, in the same words and time for an unknown user as for a wrong password."""
    async with store.reading() as work:
        user = await work.for_the_cloud().users.find_by_email(email)
    if not await issuer.passwords.matches(password, user.password_hash if user is not None else None):
        raise Unauthenticated(_WRONG)
    assert user is not None
    if user.disabled_at is not None:
        raise Unauthenticated(_WRONG)
    async with store.writing() as work:
        refresh = _new_refresh(issuer)
        session = SessionRecord(
            id=work.new_id("session"),
            user=user.id,
            refresh_hash=hash_secret(refresh),
            created_at=work.now,
            expires_at=work.now + dt.timedelta(days=SESSION_DAYS),
        )
        await work.sessions.add(session)
        await work.emit("session.started", subject=session.id, organisation=user.organisation, payload={"by": email})
        return _session(work, issuer, session, refresh)


async def refresh(store: Store, issuer: Issuer, token: str) -> public.Session:
    """A new pair of tokens. Raises Unauthenticated, and ends the session when the token was used before."""
    reused = False
    async with store.writing() as work:
        hashed = hash_secret(token)
        session = await work.sessions.find_by_hash(hashed)
        if session is None or session.revoked_at is not None or session.expires_at <= work.now:
            raise Unauthenticated("The session has ended. Sign in again.")
        user = await work.for_the_cloud().users.get(session.user)
        if user.disabled_at is not None:
            raise Unauthenticated("The session has ended. Sign in again.")
        if session.refresh_hash != hashed:
            await work.sessions.update(session.id, revoked_at=work.now)
            await work.emit("session.reuse_detected", subject=session.id, organisation=user.organisation)
            reused = True
        else:
            new = _new_refresh(issuer)
            changes = {"refresh_hash": hash_secret(new), "previous_refresh_hash": hashed}
            session = await work.sessions.update(session.id, **changes)
            answer = _session(work, issuer, session, new)
    if reused:  # Raised after the commit, which must keep the revocation.
        raise Unauthenticated("This refresh token was used before, so its session was ended. Sign in again.")
    return answer


async def logout(work: UnitOfWork, token: str) -> None:
    """End the session of a refresh token. Ending what has ended changes nothing."""
    session = await work.sessions.find_by_hash(hash_secret(token))
    if session is not None and session.revoked_at is None:
        await work.sessions.update(session.id, revoked_at=work.now)
        await work.emit("session.ended", subject=session.id)


async def caller_of_session(work: UnitOfWork, claims: Claims) -> Caller:
    """Raises Unauthenticated when the session or its user has ended since the token was signed."""
    found = await work.sessions.find_holder(claims.session)
    if found is None:
        raise Unauthenticated("The session has ended. Sign in again.")
    session, user, organisation = found
    if session.revoked_at is not None or session.expires_at <= work.now or session.user != claims.user:
        raise Unauthenticated("The session has ended. Sign in again.")
    expires_at = min(session.expires_at, claims.expires_at or session.expires_at)
    return caller(user, organisation, session=session.id, expires_at=expires_at)


def caller(
    user: UserRecord,
    organisation: OrganisationRecord,
    *,
    session: str | None = None,
    token: str | None = None,
    expires_at: dt.datetime | None,
) -> Caller:
    """Raises Unauthenticated for a user who was disabled."""
    if user.disabled_at is not None:
        raise Unauthenticated("This user was disabled.")
    return Caller(
        user=user.id,
        email=user.email,
        organisation=organisation.id,
        organisation_name=organisation.name,
        operator=user.operator,
        session=session,
        token=TokenId(token) if token is not None else None,
        expires_at=expires_at,
    )


def _new_refresh(issuer: Issuer) -> str:
    return _REFRESH_PREFIX + issuer.random_bytes(32).hex()


def _session(work: UnitOfWork, issuer: Issuer, session: SessionRecord, refresh: str) -> public.Session:
    token_id = issuer.random_bytes(16).hex()
    claims = Claims(session.user, session.id)
    return public.Session(
        access_token=issuer.key.sign(claims, now=work.now, token_id=token_id),
        expires_in_seconds=ACCESS_SECONDS,
        refresh_token=refresh,
    )
