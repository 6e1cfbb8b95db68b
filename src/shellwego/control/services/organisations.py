"""Organisations and their users. Only operators make them."""

from __future__ import annotations

from shellwego.control.services.callers import Caller, ensure_operator
from shellwego.control.store import UnitOfWork
from shellwego.control.store.records import OrganisationRecord, UserRecord
from shellwego.core.apps import is_app_name
from shellwego.core.errors import InvalidField
from shellwego.core.ids import OrganisationId, UserId


async def create_organisation(work: UnitOfWork, caller: Caller, name: str) -> OrganisationRecord:
    """Raises Forbidden, InvalidField, AlreadyExists."""
    ensure_operator(caller)
    if not is_app_name(name):
        raise InvalidField("name", f"{name[:60]!r}: use 1 to 40 of a-z, 0-9 and '-', a letter first, no '-' last.")
    organisation = OrganisationRecord(OrganisationId(work.new_id("organisation")), name, work.now)
    await work.organisations.add(organisation)
    await work.emit(
        "organisation.created", subject=organisation.id, organisation=organisation.id, payload={"by": caller.email}
    )
    return organisation


async def create_user(
    work: UnitOfWork, caller: Caller, email: str, password_hash: str, organisation_reference: str
) -> tuple[UserRecord, OrganisationRecord]:
    """Raises Forbidden, InvalidField, AlreadyExists."""
    ensure_operator(caller)
    organisation = await work.organisations.find_named(organisation_reference)
    if organisation is None:
        raise InvalidField("organisation", f"there is no organisation {organisation_reference[:60]!r}.")
    user = UserRecord(
        id=UserId(work.new_id("user")),
        organisation=organisation.id,
        email=email.lower(),
        password_hash=password_hash,
        created_at=work.now,
    )
    await work.for_organisation(organisation.id).users.add(user)
    await work.emit("user.created", subject=user.id, organisation=organisation.id, payload={"by": caller.email})
    return user, organisation
