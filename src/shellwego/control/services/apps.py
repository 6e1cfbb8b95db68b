"""What may be done with an app, and what follows from it?

Each function records a wish and returns; controllers make it true. The app is locked first by all that change what
it should be.
"""

from __future__ import annotations

from collections.abc import Mapping

from shellwego.control.services import deployments
from shellwego.control.services.app_access import emit, locked
from shellwego.control.services.callers import Caller
from shellwego.control.store import Tenant, UnitOfWork
from shellwego.control.store.records import AppRecord
from shellwego.core.apps import check_app_name, check_process_type, check_replicas
from shellwego.core.deployments import DeploymentState
from shellwego.core.errors import InvalidField
from shellwego.core.ids import AppId


async def create_app(work: UnitOfWork, caller: Caller, name: str) -> AppRecord:
    """Raises InvalidField, AlreadyExists."""
    check_app_name(name)
    app = AppRecord(
        id=AppId(work.new_id("app")),
        organisation=caller.organisation,
        name=name,
        created_at=work.now,
        updated_at=work.now,
    )
    await work.for_organisation(caller.organisation).apps.add(app)
    await emit(work, "app.created", app, name=name, by=caller.email)
    return app


async def scale(work: UnitOfWork, caller: Caller, reference: str, replicas: Mapping[str, int]) -> AppRecord:
    """
    Record how many instances the named process types should have. Returns once the wish is durable; a controller
    makes it true. Raises InvalidField for a process type that the app hasn't.
    """
    tenant, app = await locked(work, caller, reference)
    known = await tenant.apps.replicas(app.id)
    types = await _process_types(tenant, app)
    for process, count in replicas.items():
        check_process_type(process, field=f"replicas.{process[:60]}")
        check_replicas(count, field=f"replicas.{process}")
        if types and process not in types:
            raise InvalidField(
                f"replicas.{process}", f"there is no such process type. The app has: {', '.join(sorted(types))}."
            )
    changes = {process: count for process, count in replicas.items() if known.get(process) != count}
    if not changes:
        return app
    await tenant.apps.set_replicas(app, changes)
    app = await tenant.apps.update(app.id, updated_at=work.now)
    await emit(work, "app.scaled", app, replicas=dict(changes), by=caller.email)
    return app


async def start(work: UnitOfWork, caller: Caller, reference: str) -> AppRecord:
    """Run the current release again. Starting what runs changes nothing."""
    tenant, app = await locked(work, caller, reference)
    if not app.stopped:
        return app
    app = await tenant.apps.update(app.id, stopped=False, updated_at=work.now)
    await emit(work, "app.started", app, by=caller.email)
    return app


async def stop(work: UnitOfWork, caller: Caller, reference: str) -> AppRecord:
    """Run nothing, and keep releases, configuration and name. Stopping what is stopped changes nothing."""
    tenant, app = await locked(work, caller, reference)
    if app.stopped:
        return app
    app = await tenant.apps.update(app.id, stopped=True, updated_at=work.now)
    await emit(work, "app.stopped", app, by=caller.email)
    return app


async def delete(work: UnitOfWork, caller: Caller, reference: str) -> AppRecord:
    """Mark the app for deletion; it is gone when its last instance is. Safe to repeat while it is going."""
    tenant = work.for_organisation(caller.organisation)
    app = await tenant.apps.lock((await tenant.apps.named(reference)).id)
    if app.deleting_at is not None:
        return app
    unfinished = await tenant.deployments.unfinished_of(app.id)
    if unfinished is not None:
        await deployments.end(work, unfinished, DeploymentState.CANCELLED, reason="The app was deleted.")
    app = await tenant.apps.update(app.id, deleting_at=work.now, updated_at=work.now)
    await emit(work, "app.deleting", app, by=caller.email)
    return app


async def finish_deletion(work: UnitOfWork, app: AppRecord) -> None:
    """The last instance is gone: the name is free again."""
    await work.for_the_cloud().apps.update(
        app.id, deleted_at=work.now, updated_at=work.now, pending_config_ciphertext=None
    )
    await emit(work, "app.deleted", app, name=app.name)


async def _process_types(tenant: Tenant, app: AppRecord) -> set[str]:
    """Those of the current release and of the one on its way; none before the first, when any may be meant."""
    unfinished = await tenant.deployments.unfinished_of(app.id)
    on_its_way = unfinished.release if unfinished is not None else None
    if unfinished is not None and on_its_way is None:
        return set()  # Its image isn't known yet, nor are its process types.
    releases = await tenant.releases.some((app.current_release, on_its_way))
    return {process.name for release in releases.values() for process in release.spec.processes}
