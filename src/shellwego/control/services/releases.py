"""Which release is meant?"""

from __future__ import annotations

from shellwego.control.store import Tenant
from shellwego.control.store.records import AppRecord, ReleaseRecord
from shellwego.core.errors import NotFound
from shellwego.core.ids import is_id


async def find_release(tenant: Tenant, app: AppRecord, reference: str) -> ReleaseRecord:
    """The app's release by label (`v3`), number or id. Raises NotFound."""
    digits = reference.removeprefix("v")
    release = None
    if digits.isascii() and digits.isdigit() and len(digits) < 10:
        release = await tenant.releases.numbered(app.id, int(digits))
    elif is_id(reference, "release"):
        release = await tenant.releases.find(reference)
    if release is None or release.app != app.id:
        raise NotFound("release", reference[:60])
    return release
