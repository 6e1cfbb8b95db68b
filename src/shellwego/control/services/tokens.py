"""API tokens: for scripts and machines, as their user, until they expire or are revoked."""

from __future__ import annotations

import datetime as dt

from shellwego.control.services.callers import Caller
from shellwego.control.services.sessions import caller, hash_secret
from shellwego.control.store import UnitOfWork
from shellwego.control.store.records import TokenRecord
from shellwego.core.errors import NotFound, Unauthenticated
from shellwego.core.ids import OrganisationId, RandomBytes, TokenId, UserId

TOKEN_PREFIX = "swg_"  # noqa: S105 - a prefix, no secret
USED_EVERY_SECONDS = 60
"""`last_used_at` is written no oftener: a script in a loop must not turn reads into writes."""


def new_secret(random_bytes: RandomBytes) -> str:
    return TOKEN_PREFIX + random_bytes(32).hex()


async def create(
    work: UnitOfWork, caller: Caller, name: str, *, secret: str, expires_in_days: int | None
) -> TokenRecord:
    """Keep the hash of a secret that the caller is shown this once. Raises AlreadyExists."""
    await work.for_organisation(caller.organisation).tokens.revoke_expired(caller.user, name, now=work.now)
    return await add(
        work, caller.user, caller.organisation, name, secret=secret, expires_in_days=expires_in_days, by=caller.email
    )


async def add(
    work: UnitOfWork,
    user: UserId,
    organisation: OrganisationId,
    name: str,
    *,
    secret: str,
    expires_in_days: int | None,
    by: str,
) -> TokenRecord:
    token = TokenRecord(
        id=TokenId(work.new_id("token")),
        organisation=organisation,
        user=user,
        name=name,
        secret_hash=hash_secret(secret),
        created_at=work.now,
        expires_at=None if expires_in_days is None else work.now + dt.timedelta(days=expires_in_days),
    )
    await work.for_organisation(organisation).tokens.add(token)
    await work.emit("token.created", subject=token.id, organisation=organisation, payload={"name": name, "by": by})
    return token


async def revoke(work: UnitOfWork, caller: Caller, id: str) -> None:
    """One's own token. Raises NotFound."""
    tokens = work.for_organisation(caller.organisation).tokens
    token = await tokens.get(id)
    if token.user != caller.user or token.revoked_at is not None:
        raise NotFound("token", id[:60])
    await tokens.update(token.id, revoked_at=work.now)
    await work.emit("token.revoked", subject=token.id, organisation=caller.organisation, payload={"by": caller.email})


async def caller_of_token(work: UnitOfWork, secret: str) -> tuple[Caller, TokenRecord]:
    """
    Raises Unauthenticated. The look-up is by hash, so its time tells nothing of a secret that isn't known already.
    """
    found = await work.for_the_cloud().tokens.find_holder(hash_secret(secret))
    if found is None:
        raise Unauthenticated("The token isn't valid. Sign in, or ask for another.")
    token, user, organisation = found
    if token.revoked_at is not None:
        raise Unauthenticated("The token was revoked.")
    if token.expires_at is not None and token.expires_at <= work.now:
        raise Unauthenticated("The token has expired.")
    return caller(user, organisation, token=token.id, expires_at=token.expires_at), token


def use_is_due(token: TokenRecord) -> dt.datetime | None:
    """From when on the next use shall bring `last_used_at` up to date; None for a token that was never used."""
    return None if token.last_used_at is None else token.last_used_at + dt.timedelta(seconds=USED_EVERY_SECONDS)
