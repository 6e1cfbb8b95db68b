"""What must the edge serve?

Every living app's host names and the instances that may get requests, as one `Routes` message whenever it changes. An
instance is in it only while it is healthy and wanted; one that leaves is listed as draining until the edge has seen its
last request end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from shellwego.control.links.edges import EdgeLinks
from shellwego.control.store.records import AppRecord, InstanceRecord, ReleaseRecord
from shellwego.control.store.unit_of_work import Store, UnitOfWork
from shellwego.core.apps import WEB
from shellwego.core.ids import AppId, ReleaseId
from shellwego.core.instances import InstanceGoal, InstanceState
from shellwego.kit.faults import fault_point, reach
from shellwego.protocol.messages import Route, Routes, RouteServer

_PUBLISHED = fault_point("server.routes.published")


class RoutesController:
    """Publishes routes when they changed. `epoch` is this server's start: generations grow over restarts too."""

    def __init__(self, store: Store, edges: EdgeLinks, *, domain: str, epoch: int) -> None:
        self._store, self._edges, self._domain = store, edges, domain
        self._generation = epoch << 32
        self._last: list[Route] | None = None

    async def once(self) -> None:
        async with self._store.reading() as work:
            routes = await _routes(work, self._domain)
        if routes == self._last:
            return
        self._generation += 1
        self._last = routes
        await self._edges.publish(Routes(generation=self._generation, domain=self._domain, routes=routes))
        await reach(_PUBLISHED)


async def _routes(work: UnitOfWork, domain: str) -> list[Route]:
    cloud = work.for_the_cloud()
    apps = [app for app in await cloud.apps.all() if app.deleting_at is None]
    instances: dict[AppId, list[InstanceRecord]] = {}
    for instance in await cloud.instances.living():
        if instance.process == WEB:
            instances.setdefault(instance.app, []).append(instance)
    releases = await cloud.releases.some({a.current_release for a in apps})
    return [route_of(app, instances.get(app.id, ()), releases, domain) for app in apps]


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
    if app.stopped:
        return "stopped"
    wanted = [i for i in instances if i.goal is InstanceGoal.RUN]
    if not wanted:
        return "empty" if app.current_release is None else "starting"
    if any(i.state is InstanceState.HEALTHY for i in wanted):
        return "running"
    return "crashed" if all(i.state.is_failing for i in wanted) else "starting"
