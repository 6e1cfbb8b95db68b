"""How does a record look from outside?"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence

from shellwego.control.api.parts import ApiSettings
from shellwego.control.store import Tenant, UnitOfWork
from shellwego.control.store.records import (
    AppRecord,
    DeploymentRecord,
    InstanceRecord,
    NodeRecord,
    ReleaseRecord,
    SourceRecord,
    TokenRecord,
    UserRecord,
)
from shellwego.core.deployments import DeploymentKind, DeploymentState
from shellwego.core.ids import ReleaseId
from shellwego.core.nodes import NodeState
from shellwego.core.releases import ProcessType, ReleaseState
from shellwego.core.status import AppFacts, SeenInstance, derive_status
from shellwego.protocol import public

Releases = Mapping[ReleaseId, ReleaseRecord]


async def apps(tenant: Tenant, records: Sequence[AppRecord], settings: ApiSettings) -> list[public.App]:
    """Four queries, however many apps."""
    ids = [app.id for app in records]
    replicas = await tenant.apps.replicas_of(ids)
    instances = await tenant.instances.of_apps(ids)
    newest = await tenant.deployments.newest_of(ids)
    wanted = {app.current_release for app in records} | {d.release for d in newest.values()}
    releases = await tenant.releases.some(wanted)
    return [_app(app, replicas[app.id], instances[app.id], newest.get(app.id), releases, settings) for app in records]


async def app(tenant: Tenant, record: AppRecord, settings: ApiSettings) -> public.App:
    return (await apps(tenant, [record], settings))[0]


def new_app(record: AppRecord, settings: ApiSettings) -> public.App:
    """One that this request made: nothing of it can be there yet."""
    return _app(record, {}, (), None, {}, settings)


def _app(
    app: AppRecord,
    replicas: Mapping[str, int],
    instances: Sequence[InstanceRecord],
    newest: DeploymentRecord | None,
    releases: Releases,
    settings: ApiSettings,
) -> public.App:
    current = releases.get(app.current_release) if app.current_release is not None else None
    on_its_way = releases.get(newest.release) if newest is not None and newest.release is not None else None
    shown = current or on_its_way
    names = [process.name for process in shown.spec.processes] if shown is not None else list(replicas)
    desired = {name: replicas.get(name, 1) for name in names}
    seen = [SeenInstance(i.process, i.goal, i.state, i.reason) for i in instances]
    status, reason = derive_status(
        AppFacts(
            stopped=app.stopped,
            deleting=app.deleting_at is not None,
            has_release=current is not None,
            desired=desired,
            instances=seen,
            deployment=newest.state if newest is not None else None,
            deployment_ran=newest is not None and newest.release is not None,
            step=newest.step if newest is not None else "",
            reason=newest.reason if newest is not None else "",
        )
    )
    leaving = {i.process for i in seen} - set(desired)
    return public.App(
        id=app.id,
        name=app.name,
        status=status,
        status_reason=reason,
        url=settings.app_url(app.name),
        hosts=[f"{app.name}.{settings.domain}"],
        processes={
            name: public.ProcessStatus(
                desired=desired.get(name, 0),
                healthy=sum(i.serves for i in seen if i.process == name),
                total=sum(i.process == name for i in seen),
            )
            for name in [*desired, *sorted(leaving)]
        },
        release=current.label if current is not None else None,
        image=current.image if current is not None else None,
        deployment=newest.id if newest is not None else None,
        created_at=app.created_at,
        updated_at=app.updated_at,
    )


async def deployments(tenant: Tenant, records: Sequence[DeploymentRecord]) -> list[public.Deployment]:
    wanted = {d.release for d in records} | {d.previous_release for d in records}
    releases = await tenant.releases.some(wanted)
    return [_deployment(record, releases) for record in records]


async def deployment(tenant: Tenant, record: DeploymentRecord) -> public.Deployment:
    return (await deployments(tenant, [record]))[0]


def _deployment(record: DeploymentRecord, releases: Releases) -> public.Deployment:
    release = releases.get(record.release) if record.release is not None else None
    return public.Deployment(
        id=record.id,
        app=record.app,
        kind=record.kind,
        state=record.state,
        step=record.step,
        release=release.label if release is not None else None,
        previous_release=_label(record.previous_release, releases),
        source=record.source,
        image=release.image if release is not None else record.image_reference,
        reason=record.reason,
        code=record.code,
        last_lines=list(record.last_lines),
        note=record.note,
        created_by=record.created_by,
        created_at=record.created_at,
        finished_at=record.finished_at,
    )


async def releases(tenant: Tenant, records: Sequence[ReleaseRecord], app: AppRecord) -> list[public.Release]:
    outcomes = await tenant.releases.outcomes(app.id, [record.id for record in records])
    return [_release(record, app, outcomes.get(record.id)) for record in records]


def _release(
    record: ReleaseRecord, app: AppRecord, outcome: tuple[bool, DeploymentState, DeploymentKind] | None
) -> public.Release:
    ran_well, newest, kind = outcome or (False, None, None)
    current = record.id == app.current_release
    return public.Release(
        id=record.id,
        label=record.label,
        number=record.number,
        app=record.app,
        image=record.image,
        processes={process.name: _shape(process) for process in record.spec.processes},
        port=record.spec.port,
        runtime=record.spec.runtime,
        grace_seconds=record.spec.grace_seconds,
        config_keys=list(record.config_keys),
        current=current,
        state=ReleaseState.of(current=current, ran_well=ran_well, newest=newest),
        deployed_as=kind,
        deployment=record.deployment,
        note=record.note,
        created_by=record.created_by,
        created_at=record.created_at,
    )


def _shape(process: ProcessType) -> public.ProcessShape:
    in_shell = len(process.command) == 3 and process.command[:2] == ("/bin/sh", "-c")
    return public.ProcessShape(
        command=process.command[2] if in_shell else list(process.command),
        health=public.Health.model_construct(
            kind=process.health.kind,
            path=process.health.path,
            command=list(process.health.command),
            interval_seconds=process.health.interval_seconds,
            timeout_seconds=process.health.timeout_seconds,
            start_period_seconds=process.health.start_period_seconds,
            retries=process.health.retries,
        ),
        resources=public.ResourceAmounts.model_construct(
            memory_mib=process.resources.memory_mib,
            cpu_millis=process.resources.cpu_millis,
            pids=process.resources.pids,
            disk_mib=process.resources.disk_mib,
        ),
    )


async def instances(
    work: UnitOfWork, tenant: Tenant, records: Sequence[InstanceRecord], now: dt.datetime
) -> list[public.Instance]:
    releases = await tenant.releases.some({i.release for i in records})
    apps = {app.id: app for app in await tenant.apps.some({i.app for i in records})}
    nodes = {node.id: node for node in await work.nodes.all()}
    return [
        public.Instance(
            id=i.id,
            app=i.app,
            app_name=apps[i.app].name if i.app in apps else "",
            release=_label(i.release, releases) or i.release,
            process=i.process,
            goal=i.goal,
            state=i.state,
            reason=i.reason,
            node=i.node,
            node_name=nodes[i.node].name if i.node in nodes else None,
            address=i.address,
            port=i.port,
            restarts=i.restarts,
            exit_reason=i.exit_reason.value if i.exit_reason is not None else None,
            exit_code=i.exit_code,
            started_at=i.started_at,
            created_at=i.created_at,
            observed_at=i.observed_at,
            stale=i.node in nodes and nodes[i.node].state(now) is NodeState.UNREACHABLE,
        )
        for i in records
    ]


async def nodes(work: UnitOfWork, now: dt.datetime) -> list[public.Node]:
    """What each node offers, and what is promised there."""
    cloud = work.for_the_cloud()
    living = await cloud.instances.living()
    releases = await cloud.releases.some({i.release for i in living})
    return [_node(node, [i for i in living if i.node == node.id], releases, now) for node in await work.nodes.all()]


def _node(node: NodeRecord, there: Sequence[InstanceRecord], releases: Releases, now: dt.datetime) -> public.Node:
    promised = [p.resources for i in there if (p := _process(i, releases)) is not None]
    return public.Node(
        id=node.id,
        name=node.name,
        state=node.state(now),
        version=node.version,
        runtimes=list(node.runtimes),
        memory_mib=node.memory_mib,
        memory_used_mib=sum(r.memory_mib for r in promised),
        cpu_millis=node.cpu_millis,
        cpu_used_millis=sum(r.cpu_millis for r in promised),
        disk_free_mib=node.disk_free_mib,
        disk_total_mib=node.disk_total_mib,
        instances=len(there),
        unclaimed=list(node.unclaimed),
        warnings=list(node.warnings),
        last_seen_at=node.last_seen_at,
    )


def _process(instance: InstanceRecord, releases: Releases) -> ProcessType | None:
    release = releases.get(instance.release)
    return release.spec.process(instance.process) if release is not None else None


def source(record: SourceRecord) -> public.Source:
    return public.Source(id=record.id, size_bytes=record.size_bytes, sha256=record.sha256, created_at=record.created_at)


def token(record: TokenRecord) -> public.Token:
    return public.Token(
        id=record.id,
        name=record.name,
        created_at=record.created_at,
        expires_at=record.expires_at,
        last_used_at=record.last_used_at,
    )


def user(record: UserRecord) -> public.User:
    return public.User(
        id=record.id,
        email=record.email,
        organisation=record.organisation,
        operator=record.operator,
        created_at=record.created_at,
    )


def _label(id: ReleaseId | None, releases: Releases) -> str | None:
    return releases[id].label if id is not None and id in releases else None
