"""What must the edge serve?

Every living app's host names and the instances that may get requests, as one `Routes` message whenever it changes. An
instance is in it only while it is healthy and wanted; one that leaves is listed as draining until the edge has seen its
last request end. What an edge isn't told of it serves as before, so after a start an app is not named before its nodes
have spoken: the database may be an older one, whose healthy instances are gone and whose addresses are others' now.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Mapping, Sequence

from shellwego.control.links.edges import EdgeLinks
from shellwego.control.store.records import AppRecord, InstanceRecord, ReleaseRecord
from shellwego.control.store.unit_of_work import Store
from shellwego.core.apps import WEB
from shellwego.core.ids import AppId, InstanceId, ReleaseId
from shellwego.core.instances import InstanceGoal, InstanceState
from shellwego.kit.faults import fault_point, reach
from shellwego.protocol.messages import Route, Routes, RouteServer

_PUBLISHED = fault_point("server.routes.published")

UNSURE_SECONDS = 120.0
"""So long after a start we wait for what the nodes say of an app's instances; then the database is believed."""
GONE = dt.timedelta(days=7)
"""So long an app's end is told: an edge that was away for longer goes on serving a page for it."""
_ON_THE_WAY = frozenset({InstanceState.PENDING, InstanceState.PULLING, InstanceState.STARTING})


class RoutesController:
    """Publishes routes when they changed. `epoch` is this server's start: generations grow over restarts too."""

    def __init__(self, store: Store, edges: EdgeLinks, *, domain: str, epoch: int) -> None:
        self._store, self._edges, self._domain = store, edges, domain
        self._generation = epoch << 32
        self._last: tuple[list[Route], list[AppId]] | None = None
        self._began: dt.datetime | None = None
        self._unsure: set[AppId] = set()
        self._heard: set[InstanceId] = set()

    def heard(self, instances: Collection[InstanceId]) -> None:
        """Their nodes have told of these: what the database says of them is true."""
        if self._began is None or self._unsure:
            self._heard.update(instances)

    async def once(self) -> None:
        async with self._store.reading() as work:
            cloud = work.for_the_cloud()
            instances: dict[AppId, list[InstanceRecord]] = {}
            for instance in await cloud.instances.living():
                if instance.process == WEB:
                    instances.setdefault(instance.app, []).append(instance)
            # An app that is being deleted is named until its last instance has drained: only the edge can tell when.
            apps = [
                app
                for app in await cloud.apps.all()
                if app.deleting_at is None or any(i.goal is InstanceGoal.DRAIN for i in instances.get(app.id, ()))
            ]
            releases = await cloud.releases.some({a.current_release for a in apps})
            gone = await cloud.apps.gone(since=work.now - GONE)
        self._become_sure(instances, work.now)
        routes = [
            route_of(app, instances.get(app.id, ()), releases, self._domain)
            for app in apps
            if app.id not in self._unsure
        ]
        if (routes, gone) == self._last:
            return
        self._generation += 1
        self._last = routes, gone
        await self._edges.publish(
            Routes(generation=self._generation, domain=self._domain, routes=routes, gone=list(gone))
        )
        await reach(_PUBLISHED)

    def _become_sure(self, instances: Mapping[AppId, Sequence[InstanceRecord]], now: dt.datetime) -> None:
        if self._began is None:
            self._began, self._unsure = now, set(instances)
        if (now - self._began).total_seconds() > UNSURE_SECONDS:
            self._unsure.clear()
        self._unsure = {app for app in self._unsure if not is_accounted_for(instances.get(app, ()), self._heard)}
        if not self._unsure:
            self._heard.clear()


def is_accounted_for(instances: Sequence[InstanceRecord], heard: Collection[InstanceId]) -> bool:
    """
    Whether a route made of these instances can only be better than what the edge serves now. Pure.

    Their nodes have told of all that should run, and one of them can serve, or none will soon.
    """
    wanted = [i for i in instances if i.goal is InstanceGoal.RUN]
    if any(i.id not in heard for i in wanted):
        return False
    return any(i.state is InstanceState.HEALTHY for i in wanted) or not any(i.state in _ON_THE_WAY for i in wanted)


def route_of(
    app: AppRecord, instances: Sequence[InstanceRecord], releases: Mapping[ReleaseId, ReleaseRecord], domain: str
) -> Route:
    """One app's route. Pure."""
    release = releases.get(app.current_release) if app.current_release is not None else None
    return Route(
        app=app.id,
        app_name=app.name,
        organisation=app.organisation,
        hosts=[f"{app.name}.{domain}"],
        servers=_servers(i for i in instances if i.goal is InstanceGoal.RUN and i.state is InstanceState.HEALTHY),
        draining=_servers(
            i for i in instances if i.goal is InstanceGoal.DRAIN and i.drained_at is None and not i.state.is_terminal
        ),
        status=_status(app, instances),
        grace_seconds=release.spec.grace_seconds if release is not None else 10.0,
    )


def _servers(instances: Iterable[InstanceRecord]) -> list[RouteServer]:
    return [
        RouteServer(instance=i.id, address=i.address, port=i.port)
        for i in instances
        if i.address is not None and i.port is not None
    ]


def _status(app: AppRecord, instances: Sequence[InstanceRecord]) -> str:
    """Which page the edge shows when no instance can serve."""
    if app.stopped or app.deleting_at is not None:
        return "stopped"
    wanted = [i for i in instances if i.goal is InstanceGoal.RUN]
    if not wanted:
        return "empty" if app.current_release is None else "starting"
    if any(i.state is InstanceState.HEALTHY for i in wanted):
        return "running"
    return "crashed" if all(i.state.is_failing for i in wanted) else "starting"
