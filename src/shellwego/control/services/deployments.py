"""What becomes of the wish for another release?

`create` records a deployment; the builds controller brings it an image and calls `start_release`; the deployments
controller rolls it out and says how it ended (`progress`, `succeed`, `fail`). At most one deployment of an app is
under way: a newer one supersedes it and takes over what it wanted, so that of two changes made at once neither is
lost. Each function is one step inside the caller's unit of work.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from shellwego.control.services.app_access import emit, locked
from shellwego.control.services.callers import Caller
from shellwego.control.services.releases import find_same_release, release_to_go_back_to
from shellwego.control.services.sealing import changed, config_of, options_of, pending_config, seal
from shellwego.control.services.shapes import Found, wanted_replicas, wanted_spec
from shellwego.control.services.wishes import Wish, check_origin, check_request, split_request, take_over, wish_of
from shellwego.control.store import Tenant, UnitOfWork
from shellwego.control.store.records import AppRecord, DeploymentRecord, ReleaseRecord
from shellwego.core.apps import check_config
from shellwego.core.deployments import DeploymentKind, DeploymentState
from shellwego.core.errors import (
    BuildFailed,
    Conflict,
    ImageNotKept,
    InvalidField,
    NotFound,
    ShellWeGoError,
)
from shellwego.core.ids import DeploymentId, ReleaseId
from shellwego.core.last_lines import cut_last_lines
from shellwego.core.releases import KEPT_RELEASES
from shellwego.drivers.images.reference import is_digest
from shellwego.drivers.kms.port import Kms
from shellwego.protocol import public


async def create(
    work: UnitOfWork, kms: Kms, caller: Caller, reference: str, body: public.DeploymentCreate
) -> DeploymentRecord:
    """
    Record a deployment. One that needs no new image has its release, and is rolling, when this returns.
    Raises InvalidField, NotFound, Forbidden, Conflict, ImageNotKept.
    """
    tenant, app = await locked(work, caller, reference)
    request, options = split_request(body)
    check_request(caller, body, request, options)
    before = await tenant.deployments.unfinished_of(app.id)
    if body.release is not None:
        target = await release_to_go_back_to(tenant, app, body.release)
        if is_digest(target.image) and target.image not in await tenant.releases.images_to_keep(newest=KEPT_RELEASES):
            # Nodes remove it when they need room: refused now, or it would fail there, some days and not others.
            raise ImageNotKept(target.label)
        wish = Wish(DeploymentKind.ROLLBACK, None, None, target.id, {}, {})
    else:
        await check_origin(tenant, caller, app, body)
        wish = await take_over(kms, app, before, wish_of(body, request, options))
        if wish.image is None and wish.source is None and wish.base is None:
            raise Conflict(f"Nothing was deployed to {app.name!r} yet. Deploy a folder or an image first.")
    if app.current_release is None and "config" in options:
        # Should the first release never run, the next one still starts with what was set for it.
        await _keep_pending(work, kms, app, options["config"])
    deployment = DeploymentRecord(
        id=DeploymentId(work.new_id("deployment")),
        organisation=app.organisation,
        app=app.id,
        kind=wish.kind,
        state=DeploymentState.QUEUED,
        created_at=work.now,
        image_reference=wish.image,
        source=wish.source,
        base_release=wish.base,
        previous_release=app.current_release,
        request=wish.request,
        note=body.note,
        created_by=caller.email,
    )
    if wish.options:
        sealed = await seal(kms, wish.options, context=deployment.id)
        deployment = dataclasses.replace(deployment, options_ciphertext=sealed)
    if before is not None:
        await end(work, before, DeploymentState.SUPERSEDED, reason="A newer deployment took over.")
    await tenant.deployments.add(deployment)
    await emit(work, "app.deploying", app, deployment=deployment.id)
    await _emit(work, deployment, by=caller.email)
    if wish.image is not None or wish.source is not None:
        return deployment
    assert wish.base is not None
    base = await tenant.releases.get(wish.base)
    if wish.kind is DeploymentKind.CONFIG:
        await start_release(work, kms, deployment, base.image, Found())
        return await tenant.deployments.get(deployment.id)
    return await _roll(work, tenant, deployment, base)


async def change_config(
    work: UnitOfWork, kms: Kms, caller: Caller, reference: str, values: Mapping[str, str | None]
) -> None:
    """
    A new release with other configuration; before the first one, the configuration that it will start with.
    Raises InvalidField, NotFound, Conflict.
    """
    tenant, app = await locked(work, caller, reference)
    under_way = await tenant.deployments.unfinished_of(app.id)
    if app.current_release is not None or under_way is not None:
        await create(work, kms, caller, reference, public.DeploymentCreate(config=dict(values)))
        return
    await _keep_pending(work, kms, app, values)
    await emit(work, "app.configured", app, keys=sorted(values), by=caller.email)


async def start_release(
    work: UnitOfWork, kms: Kms, deployment: DeploymentRecord, image: str, found: Found
) -> ReleaseRecord:
    """
    The image is known: write the release and begin to roll it out. `image` names it by digest, `found` is what it
    says of itself. What would be the very release that runs well already is that release, and replaces no instance.
    Raises Conflict when the deployment ended meanwhile, InvalidField when the wish doesn't fit it.
    """
    tenant = work.for_the_cloud()
    app = await tenant.apps.lock(deployment.app)
    deployment = await tenant.deployments.get(deployment.id)
    if deployment.state.is_terminal:
        raise Conflict(f"Deployment {deployment.id} is {deployment.state.value}.")
    if deployment.release is not None:
        return await tenant.releases.get(deployment.release)
    base = await tenant.releases.get(deployment.base_release) if deployment.base_release is not None else None
    new_image = deployment.image_reference is not None or deployment.source is not None
    spec = wanted_spec(base.spec if base is not None else None, deployment.request, found, new_image=new_image)
    options = await options_of(kms, deployment)
    values = await config_of(kms, base) if base is not None else await pending_config(kms, app)
    config = check_config(changed(values, options.get("config", {})))
    same = await find_same_release(tenant, kms, app, image, spec, config)
    if same is not None:
        await _roll(work, tenant, deployment, same)
        return same
    id = ReleaseId(work.new_id("release"))
    release = ReleaseRecord(
        id=id,
        organisation=app.organisation,
        app=app.id,
        number=app.next_release_number,
        image=image,
        spec=spec,
        config_ciphertext=await seal(kms, config, context=id),
        config_keys=tuple(config),
        created_at=work.now,
        deployment=deployment.id,
        note=deployment.note,
        created_by=deployment.created_by,
    )
    await tenant.releases.add(release)
    await tenant.apps.update(app.id, next_release_number=app.next_release_number + 1, updated_at=work.now)
    await emit(work, "app.released", app, release=release.id, number=release.number)
    await _roll(work, tenant, deployment, release)
    return release


async def begin(work: UnitOfWork, deployment: DeploymentRecord, state: DeploymentState) -> DeploymentRecord:
    """A controller takes the deployment up (BUILDING, RESOLVING), or puts it back (QUEUED). Raises Conflict."""
    deployment = await work.for_the_cloud().deployments.move(
        deployment.id,
        state,
        attempt=deployment.attempt + (state is not DeploymentState.QUEUED),
        started_at=deployment.started_at or work.now,
    )
    await _emit(work, deployment)
    return deployment


async def progress(work: UnitOfWork, deployment: DeploymentRecord, step: str) -> DeploymentRecord:
    """Say how far it is, for people."""
    deployment = await work.for_the_cloud().deployments.update(deployment.id, step=step[:1000])
    await _emit(work, deployment, kind="deployment.progress")
    return deployment


async def succeed(work: UnitOfWork, deployment: DeploymentRecord, *, step: str = "") -> DeploymentRecord:
    """Every instance is as wished: the release is the app's current one from now on. Raises Conflict."""
    tenant = work.for_the_cloud()
    await tenant.apps.update(
        deployment.app,
        current_release=deployment.release,
        pending_config_ciphertext=None,  # The release holds it, and it has proven itself.
        updated_at=work.now,
    )
    return await end(work, deployment, DeploymentState.SUCCEEDED, step=step)


async def fail(
    work: UnitOfWork, deployment: DeploymentRecord, *, reason: str, code: str, last_lines: Collection[str] = ()
) -> DeploymentRecord:
    """It can't be: the release before goes on serving, and this one says why. Raises Conflict."""
    lines = cut_last_lines(last_lines)
    return await end(work, deployment, DeploymentState.FAILED, reason=reason, code=code, last_lines=lines)


async def fail_with(work: UnitOfWork, deployment: DeploymentRecord, error: ShellWeGoError) -> DeploymentRecord:
    """The same, from the error that ended it."""
    lines = error.last_lines if isinstance(error, BuildFailed) else ()
    # Of what was found in a source the words say where; a field's name in front would be one that nobody typed.
    found = isinstance(error, InvalidField) and error.field in {"source", "build.dockerfile"} and error.line is None
    reason = error.problem if isinstance(error, InvalidField) and found else str(error)
    return await fail(work, deployment, reason=reason, code=error.code, last_lines=lines)


async def cancel(work: UnitOfWork, caller: Caller, reference: str, id: str) -> DeploymentRecord:
    """Give it up; the release before goes on serving. Raises NotFound, Conflict when it has ended already."""
    tenant = work.for_organisation(caller.organisation)
    app = await tenant.apps.lock((await tenant.apps.named(reference)).id)
    deployment = await get(tenant, app, id)
    if deployment.state is DeploymentState.CANCELLED:
        return deployment
    if deployment.state.is_terminal:
        raise Conflict(f"It is {deployment.state.value} already.")
    return await end(work, deployment, DeploymentState.CANCELLED, reason=f"Cancelled by {caller.email}.")


async def get(tenant: Tenant, app: AppRecord, id: str) -> DeploymentRecord:
    """A deployment of this app. Raises NotFound."""
    deployment = await tenant.deployments.get(id)
    if deployment.app != app.id:
        raise NotFound("deployment", id[:60])
    return deployment


async def end(work: UnitOfWork, deployment: DeploymentRecord, state: DeploymentState, **said: Any) -> DeploymentRecord:
    """Move to a last state. What the deployment was trusted with (build secrets, a login) is forgotten."""
    deployment = await work.for_the_cloud().deployments.move(
        deployment.id, state, finished_at=work.now, options_ciphertext=None, **said
    )
    await _emit(work, deployment)
    return deployment


async def _keep_pending(work: UnitOfWork, kms: Kms, app: AppRecord, changes: Mapping[str, str | None]) -> None:
    config = check_config(changed(await pending_config(kms, app), changes), field="values")
    sealed = await seal(kms, config, context=app.id)
    await work.for_the_cloud().apps.update(app.id, pending_config_ciphertext=sealed, updated_at=work.now)


async def _roll(
    work: UnitOfWork, tenant: Tenant, deployment: DeploymentRecord, release: ReleaseRecord
) -> DeploymentRecord:
    """Instances are replaced from now on, as many as the app wishes."""
    app = await tenant.apps.get(deployment.app)
    known = await tenant.apps.replicas(app.id)
    replicas = wanted_replicas(release.spec, known, deployment.request)
    if replicas:
        await tenant.apps.set_replicas(app, replicas)
    deployment = await tenant.deployments.move(
        deployment.id,
        DeploymentState.ROLLING,
        release=release.id,
        started_at=deployment.started_at or work.now,
        step="",
    )
    await _emit(work, deployment)
    return deployment


async def _emit(work: UnitOfWork, deployment: DeploymentRecord, *, kind: str | None = None, **more: Any) -> None:
    await work.emit(
        kind or f"deployment.{deployment.state.value}",
        subject=deployment.id,
        organisation=deployment.organisation,
        payload={
            "app": deployment.app,
            "state": deployment.state.value,
            "step": deployment.step,
            "reason": deployment.reason,
            "release": deployment.release,
            **more,
        },
    )
