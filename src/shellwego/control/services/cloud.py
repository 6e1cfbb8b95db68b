"""How does a cloud begin?

With its own record, the organisation `default`, one operator, and one API token for whoever started it. Their secrets
are given to `keep` before anything is committed: a crash in between leaves a secret that opens nothing, never an
operator whose secret nobody has. A cloud whose database was lost begins again with the secrets that its operator has:
new ones would take the place of those that open the right database, once that is put back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from shellwego.control.services import tokens
from shellwego.control.services.passwords import Passwords
from shellwego.control.store import Store
from shellwego.control.store.records import CloudRecord, OrganisationRecord, UserRecord
from shellwego.core.ids import CloudId, OrganisationId, RandomBytes, UserId
from shellwego.kit.faults import fault_point, reach

DEFAULT_ORGANISATION = "default"
_SECRETS_KEPT = fault_point("server.bootstrap.secrets_kept")


@dataclass(frozen=True, slots=True)
class FirstSecrets:
    """To be written down once, for the operator alone (mode 0600)."""

    email: str
    password: str = field(repr=False)
    token: str = field(repr=False)


async def ensure_cloud(
    store: Store,
    *,
    id: CloudId,
    domain: str,
    passwords: Passwords,
    random_bytes: RandomBytes,
    keep: Callable[[FirstSecrets], None],
    kept: FirstSecrets | None = None,
) -> CloudRecord:
    """
    The cloud's record, with all that it begins with. Safe to repeat: a cloud that has begun is left alone, and `keep`
    isn't called. `kept` is what an earlier beginning gave to `keep`, if there is anything of it.
    """
    async with store.reading() as work:
        cloud = await work.cloud.find_it()
    if cloud is not None:
        return cloud
    # 160 and 256 random bits; the password is also typed, so it is the shorter.
    secrets = kept or FirstSecrets(f"admin@{domain}", random_bytes(20).hex(), tokens.new_secret(random_bytes))
    password_hash = await passwords.hash(secrets.password)
    async with store.writing() as work:
        cloud = await work.cloud.find_it()
        if cloud is not None:
            return cloud  # Another server was quicker.
        cloud = await work.cloud.add(CloudRecord(id, domain, work.now))
        organisation = OrganisationRecord(OrganisationId(work.new_id("organisation")), DEFAULT_ORGANISATION, work.now)
        await work.organisations.add(organisation)
        user = UserRecord(
            id=UserId(work.new_id("user")),
            organisation=organisation.id,
            email=secrets.email.lower(),
            password_hash=password_hash,
            created_at=work.now,
            operator=True,
        )
        await work.for_organisation(organisation.id).users.add(user)
        await tokens.add(
            work, user.id, organisation.id, "first", secret=secrets.token, expires_in_days=None, by=user.email
        )
        await work.emit("cloud.created", subject=id, organisation=organisation.id, payload={"domain": domain})
        keep(secrets)
        await reach(_SECRETS_KEPT)
    return cloud
