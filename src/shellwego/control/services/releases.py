"""Which release is meant?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from shellwego.control.services.sealing import config_of
from shellwego.control.store import Tenant
from shellwego.control.store.records import AppRecord, ReleaseRecord, ReleaseSpec
from shellwego.core.errors import Conflict, InvalidField, NotFound
from shellwego.core.ids import is_id
from shellwego.core.instances import InstanceGoal
from shellwego.drivers.kms.port import Kms


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


async def release_to_go_back_to(tenant: Tenant, app: AppRecord, label: str) -> ReleaseRecord:
    """`v3`, `3`, a release's id, or `previous`. Raises InvalidField, Conflict."""
    if label == "previous":
        current = await tenant.releases.some((app.current_release,))
        number = next((release.number for release in current.values()), app.next_release_number)
        found = await tenant.releases.last_good_before(app.id, number)
        if found is None:
            raise Conflict(f"{app.name!r} has no earlier release that ever ran well.")
        return found
    try:
        return await find_release(tenant, app, label)
    except NotFound as error:
        raise InvalidField(
            "release", f"{app.name!r} has no release {label!r}. Use a label such as v3, or `previous`."
        ) from error


async def find_same_release(
    tenant: Tenant, kms: Kms, app: AppRecord, image: str, spec: ReleaseSpec, config: Mapping[str, str]
) -> ReleaseRecord | None:
    """The app's current release, if it is this very one and runs well (docs/decisions/0013)."""
    current = None if app.current_release is None else await tenant.releases.find(app.current_release)
    if current is None or (current.image, current.spec) != (image, spec) or await config_of(kms, current) != config:
        return None
    return current if await _runs_well(tenant, app, current) else None


async def _runs_well(tenant: Tenant, app: AppRecord, release: ReleaseRecord) -> bool:
    """Each instance that it should have serves."""
    wished = await tenant.apps.replicas(app.id)
    serving = Counter(
        instance.process
        for instance in await tenant.instances.of_app(app.id)
        if instance.release == release.id and instance.goal is InstanceGoal.RUN and instance.state.serves_traffic
    )
    return app.wants_instances and all(serving[p.name] >= wished.get(p.name, 1) for p in release.spec.processes)
