"""What must the edge serve?

Every living app's host names and the instances that may get requests. An instance is in it only while it is healthy
and wanted; one that leaves is listed as draining until the edge has seen its last request end. What an edge isn't told
of it serves as before, so after a start an app is not named before its nodes have spoken: the database may be an older
one, whose healthy instances are gone and whose addresses are others' now.

What was told is kept to tell only what changed, and an event says which apps to look at: one change among thousands
must be cheap. Both are for speed alone. A look at all apps at the start, after a failure and every WHOLE_LOOK_SECONDS
finds whatever an event didn't say.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from shellwego.control.controllers.concerns import concerning
from shellwego.control.links.edges import EdgeLinks
from shellwego.control.store.records import AppRecord, EventRecord, InstanceRecord
from shellwego.control.store.unit_of_work import Store, Tenant, UnitOfWork
from shellwego.core.apps import WEB
from shellwego.core.ids import AppId, InstanceId, ReleaseId
from shellwego.core.instances import InstanceGoal, InstanceState
from shellwego.kit.faults import fault_point, reach
from shellwego.protocol.messages import Route, Routes, RoutesChanged, RouteServer

_PUBLISHED = fault_point("server.routes.published")

UNSURE_SECONDS = 120.0
"""So long after a start we wait for what the nodes say of an app's instances; then the database is believed."""
GONE = dt.timedelta(days=7)
"""So long an app's end is told: an edge that was away for longer goes on serving a page for it."""
WHOLE_LOOK_SECONDS = 30.0
PAGE = 100
DEFAULT_GRACE_SECONDS = 10.0
_CONCERN = ("app.", "deployment.", "instance.")
"""Events after which an app may be served by others, or not at all."""
_ON_THE_WAY = frozenset({InstanceState.PENDING, InstanceState.PULLING, InstanceState.STARTING})


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the database says of some apps, or of all."""

    apps: list[AppRecord] = field(default_factory=list)
    instances: dict[AppId, list[InstanceRecord]] = field(default_factory=dict)
    gone: set[AppId] = field(default_factory=set)


class RoutesController:
    """
    Publishes routes when they changed. Call `notice` with what happened; run `once` in a loop. `epoch` is this server's
    start: generations grow over restarts too. Without one it is taken from the database before the first routes are
    told: a server on a full disk has none to tell, and answers whoever only reads.
    """

    def __init__(
        self,
        store: Store,
        edges: EdgeLinks,
        wake: asyncio.Event,
        *,
        domain: str,
        epoch: int | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._edges, self._wake, self._domain, self._monotonic = store, edges, wake, domain, monotonic
        self._generation = 0 if epoch is None else epoch << 32
        self._has_told = False
        self._told: dict[AppId, Route] = {}
        self._gone: frozenset[AppId] = frozenset()
        self._noticed: set[AppId] = set()
        self._looked_at: float | None = None
        self._graces: dict[ReleaseId, float] = {}
        self._began: float | None = None
        self._unsure: set[AppId] = set()
        self._heard: set[InstanceId] = set()

    def notice(self, events: Collection[EventRecord]) -> None:
        """Look at the apps of these events."""
        apps = {event.app for event in concerning(events, _CONCERN) if event.app is not None}
        if apps:
            self._noticed |= apps
            self._wake.set()

    def heard(self, instances: Collection[InstanceId]) -> None:
        """Their nodes have told of these: what the database says of them is true."""
        if self._began is None or self._unsure:
            self._heard.update(instances)
            self._wake.set()

    def are_in_force(self, app: AppId) -> bool:
        """Whether every proxy serves the app as the database has it, and by no instance that has ended there."""
        return self._has_told and app not in self._unsure and self._edges.serve_all(self._generation)

    async def once(self) -> None:
        if not self._generation:
            async with self._store.writing() as work:
                self._generation = await work.cloud.next_epoch() << 32
        noticed, self._noticed = self._noticed, set()
        looked_at, self._looked_at = self._looked_at, None  # Whatever goes wrong below, the next look is a whole one.
        now = self._monotonic()
        among = noticed | self._unsure if looked_at is not None and now - looked_at < WHOLE_LOOK_SECONDS else None
        async with self._store.reading() as work:
            seen = await self._look(work, among)
        self._become_sure(seen.instances, now)
        is_news = self._publish(seen, among)
        self._looked_at = now if among is None else looked_at
        if is_news:
            await reach(_PUBLISHED)

    async def _look(self, work: UnitOfWork, among: Collection[AppId] | None) -> _Seen:
        cloud, seen = work.for_the_cloud(), _Seen()
        if among is not None:
            await self._read(cloud, await cloud.apps.some(among), seen)
        else:
            after = None
            while page := await cloud.apps.page(limit=PAGE, after=after):
                await self._read(cloud, page, seen)
                after = page[-1].name
                await asyncio.sleep(0)  # Nobody else should wait for a look at thousands.
            current = {app.current_release for app in seen.apps}
            self._graces = {release: grace for release, grace in self._graces.items() if release in current}
        seen.gone.update(await cloud.apps.gone(since=work.now - GONE, among=among))
        return seen

    async def _read(self, cloud: Tenant, apps: Sequence[AppRecord], seen: _Seen) -> None:
        seen.apps.extend(apps)
        for app, living in (await cloud.instances.of_apps([app.id for app in apps])).items():
            seen.instances[app] = [instance for instance in living if instance.process == WEB]
        # A release never changes, so its grace is asked for once.
        unknown = {app.current_release for app in apps} - self._graces.keys()
        for release in (await cloud.releases.some(unknown)).values():
            self._graces[release.id] = release.spec.grace_seconds

    def _publish(self, seen: _Seen, among: Collection[AppId] | None) -> bool:
        """Tell the edges what differs from what they were told; false if nothing does."""
        routes = {
            app.id: self._route(app, seen.instances.get(app.id, ()))
            for app in seen.apps
            if app.id not in self._unsure and is_named(app, seen.instances.get(app.id, ()))
        }
        changed = [route for app, route in routes.items() if self._told.get(app) != route]
        unnamed = (self._told.keys() if among is None else self._told.keys() & among) - routes.keys()
        gone = frozenset(seen.gone).difference(routes)
        if among is not None:
            gone |= self._gone.difference(among)
        if self._has_told and not changed and not unnamed and gone == self._gone:
            return False
        for app in unnamed:
            del self._told[app]
        self._told.update((AppId(route.app), route) for route in changed)
        newly_gone, self._gone = gone - self._gone, gone
        since = self._generation
        self._generation += 1
        whole = Routes(
            generation=self._generation, domain=self._domain, routes=list(self._told.values()), gone=list(gone)
        )
        changes = RoutesChanged(since=since, generation=self._generation, routes=changed, gone=list(newly_gone))
        # An app that is named nowhere any more goes on being served; only a whole message can say that of it.
        self._edges.publish(whole, changes if self._has_told and unnamed <= gone else None)
        self._has_told = True
        return True

    def _route(self, app: AppRecord, instances: Sequence[InstanceRecord]) -> Route:
        release = app.current_release
        grace = self._graces.get(release, DEFAULT_GRACE_SECONDS) if release is not None else DEFAULT_GRACE_SECONDS
        return route_of(app, instances, self._domain, grace_seconds=grace)

    def _become_sure(self, instances: Mapping[AppId, Sequence[InstanceRecord]], now: float) -> None:
        if self._began is None:
            self._began, self._unsure = now, {app for app, there in instances.items() if there}
        if now - self._began > UNSURE_SECONDS:
            self._unsure.clear()
        self._unsure = {app for app in self._unsure if not is_accounted_for(instances.get(app, ()), self._heard)}
        if not self._unsure:
            self._heard.clear()


def is_named(app: AppRecord, instances: Sequence[InstanceRecord]) -> bool:
    """
    Whether edges are told of this app. One that is being deleted is named until its last instance has drained: only
    an edge can tell when. Pure.
    """
    return app.deleting_at is None or any(i.goal is InstanceGoal.DRAIN for i in instances)


def is_accounted_for(instances: Sequence[InstanceRecord], heard: Collection[InstanceId]) -> bool:
    """
    Whether a route made of these instances can only be better than what the edge serves now. Pure.

    Their nodes have told of all that should run, and one of them can serve, or none will soon.
    """
    wanted = [i for i in instances if i.goal is InstanceGoal.RUN]
    if any(i.id not in heard for i in wanted):
        return False
    return any(i.state is InstanceState.HEALTHY for i in wanted) or not any(i.state in _ON_THE_WAY for i in wanted)


def route_of(app: AppRecord, instances: Sequence[InstanceRecord], domain: str, *, grace_seconds: float) -> Route:
    """One app's route. Pure."""
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
        grace_seconds=grace_seconds,
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
