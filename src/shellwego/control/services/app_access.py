"""How is one app taken hold of, and how does the rest of the cloud hear what became of it?"""

from __future__ import annotations

from shellwego.control.services.callers import Caller
from shellwego.control.store import Tenant, UnitOfWork
from shellwego.control.store.records import AppRecord
from shellwego.core.errors import Conflict


async def locked(work: UnitOfWork, caller: Caller, reference: str) -> tuple[Tenant, AppRecord]:
    """The app, held for a change. Raises NotFound, and Conflict when it is being deleted."""
    tenant = work.for_organisation(caller.organisation)
    app = await tenant.apps.lock((await tenant.apps.named(reference)).id)
    if app.deleting_at is not None:
        raise Conflict(f"App {app.name!r} is being deleted.")
    return tenant, app


async def emit(work: UnitOfWork, kind: str, app: AppRecord, **payload: object) -> None:
    await work.emit(kind, subject=app.id, organisation=app.organisation, payload={"app": app.id, **payload})
