"""What is wrong with the proxy now, and does it serve what it should?

Observe, plan, apply, report; remembers nothing that can't be asked again. A whole look at HAProxy is taken at the
start, after any surprise and every WHOLE_LOOK_SECONDS; in between, the picture is carried on by `apply_to`, and only
apps whose route changed are planned, so that one change among thousands takes milliseconds. For the same reason what
was brought about is written to disk, and reported, beside the next round.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import structlog

from shellwego.core.errors import Conflict
from shellwego.edge.acceptance import Acceptance, Accepted, accept_all, accept_changes
from shellwego.edge.apply import apply_plan
from shellwego.edge.config import (
    Patience,
    ProxyPaths,
    ProxySettings,
    render_config,
    render_maps,
    render_pages,
    shape_of,
)
from shellwego.edge.haproxy import ConfigRefused, HAProxy
from shellwego.edge.listeners import Listeners, open_listeners, take_listeners
from shellwego.edge.routes import (
    API_BACKEND,
    SLOT_PREFIX,
    Observed,
    RoutePlan,
    apply_to,
    busy_slots,
    find_drained,
    narrow,
    plan_routes,
)
from shellwego.edge.socket import ProxyInfo, observe_all, observed_from, parse_map, parse_servers, show_slot
from shellwego.edge.state import SavedRoutes, load_routes, save_routes
from shellwego.kit.faults import fault_point, reach
from shellwego.protocol.messages import EdgeReport, Routes, RoutesChanged

log = structlog.get_logger()

OBSERVE = fault_point("edge.observe")
REPORT = fault_point("edge.report")

FIRST_SLOTS = 128
WHOLE_LOOK_SECONDS = 15.0
BUSY_SECONDS = 0.1
"""How soon to look again while something drains or waits to be deleted; ten times that when it takes longer."""
_HURRY_ROUNDS = 100
SETTLE_SECONDS = 0.02
"""So long changes are gathered before they are written to disk: thousands of routes take milliseconds of CPU."""


@dataclass(frozen=True, slots=True)
class EdgeSettings:
    """What the edge is told: where to listen, where its files are, what the proxy may be and whom it trusts."""

    paths: ProxyPaths
    address: str
    http_port: int
    https_port: int
    domain: str
    api_socket: Path
    routes_file: Path
    trusted_proxies: tuple[str, ...] = ()
    user: str = ""
    group: str = ""
    patience: Patience = field(default_factory=Patience)


@dataclass(slots=True)
class _Picture:
    """The last look at HAProxy, and the routes that it was brought to; None: nothing is sure."""

    observed: Observed
    looked_at: float
    busy: frozenset[str]
    """Where a server drains or waits to be deleted."""
    applied: Mapping[str, Accepted] | None = None
    fixed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _InForce:
    """What a round brought about, and what there is to say of it."""

    saved: SavedRoutes
    acceptance: Acceptance
    report: EdgeReport


class EdgeReconciler:
    """
    Keeps one HAProxy serving what is wanted. Call `round` in a loop, and `settle` in another one, woken by `settles`;
    `on_report` hears what was found.
    """

    def __init__(
        self,
        settings: EdgeSettings,
        proxy: HAProxy,
        *,
        wake: asyncio.Event,
        on_report: Callable[[EdgeReport], None],
    ) -> None:
        self._settings, self._proxy, self._wake, self._on_report = settings, proxy, wake, on_report
        self._listeners: Listeners | None = None
        self._picture: _Picture | None = None
        self._saved = load_routes(settings.routes_file)
        self._on_disk = self._saved
        self._in_force = 0
        self._unsettled: _InForce | None = None
        self.settles = asyncio.Event()
        self._acceptance = accept_all(self._saved.routes, (), Acceptance(), reserved=self._fixed_hosts())
        self._busy_rounds = 0
        self._touched: set[str] = set()
        self._hosts: frozenset[str] = frozenset()
        self._hosts_of: Acceptance | None = None

    @property
    def cloud(self) -> str:
        """Of which cloud the routes are; empty before the first."""
        return self._saved.cloud

    @property
    def domain(self) -> str:
        return self._saved.domain or self._settings.domain

    @property
    def hosts(self) -> frozenset[str]:
        """Every host name that is served, for the certificates. The same object until it changes."""
        if self._hosts_of is not self._acceptance:
            self._hosts_of = self._acceptance
            hosts = frozenset(self._fixed_hosts()).union(self._acceptance.holders)
            if hosts != self._hosts:
                self._hosts = hosts
        return self._hosts

    def want(self, message: Routes | RoutesChanged, *, cloud: str) -> None:
        """Take over what should be served. The next round brings it about and reports it."""
        before = self._acceptance
        match message:
            case Routes():
                # First the domain: whose names are reserved depends on it.
                self._saved = SavedRoutes(cloud=cloud, domain=message.domain, generation=message.generation)
                accept = accept_all
            case RoutesChanged():
                self._saved = SavedRoutes(cloud=cloud, domain=self._saved.domain, generation=message.generation)
                accept = accept_changes
        self._acceptance = accept(message.routes, message.gone, before, reserved=self._fixed_hosts())
        self._touched |= self._acceptance.touched
        for app, refusal in self._acceptance.refused.items():
            if before.refused.get(app) != refusal:
                log.warning("edge.route_refused", problem=refusal.problem)
        self._wake.set()

    async def round(self) -> RoutePlan:
        """Observe, plan, apply, once. `settle` reports it."""
        saved, acceptance = self._saved, self._acceptance
        touched, self._touched = self._touched, set()
        try:
            plan, problems, older = await self._bring_about(acceptance.accepted, touched)
        except BaseException as error:
            self._picture = None  # Whatever went wrong, what we believed of HAProxy may be wrong as well.
            if isinstance(error, Exception):
                why = f"the proxy can't be brought to what it should serve: {error}"
                self._on_report(EdgeReport(generation=self._in_force, problems=[why[:500]], serving=False))
            raise
        assert self._picture is not None
        draining = [entry.route for entry in acceptance.accepted.values() if entry.route.draining]
        drained = find_drained(draining, self._picture.observed, older_proxies=older)
        self._in_force = saved.generation
        report = EdgeReport(
            generation=saved.generation, drained=sorted(drained), problems=[*acceptance.problems, *problems]
        )
        self._unsettled = _InForce(saved, acceptance, report)
        self.settles.set()
        self._look_again_soon(bool(problems) or bool(self._picture.busy))
        return plan

    async def settle(self) -> None:
        """
        Save the routes in force, then report them. A change doesn't wait for the disk: until the report goes out nobody
        has acted on it, and the older file is as right as the newer one.
        """
        await asyncio.sleep(SETTLE_SECONDS)
        there = self._unsettled
        if there is None:
            return
        report = there.report
        if there.saved is not self._on_disk:
            routes = [entry.raw for entry in there.acceptance.accepted.values()]
            try:
                await save_routes(self._settings.routes_file, msgspec.structs.replace(there.saved, routes=routes))
                self._on_disk = there.saved
            except OSError as error:  # A full disk must not keep us from serving.
                log.error("edge.state_unsaved", error=str(error))
                problem = f"The routes can't be saved, a restart would forget them: {error}"
                report = msgspec.structs.replace(report, problems=[*report.problems, problem])
        await reach(REPORT)
        if self._picture is not None:  # Else a round has failed since, or is about to have more to say.
            self._on_report(report)
        if self._unsettled is there:
            self._unsettled = None

    def close(self) -> None:
        """Let go of HAProxy, which goes on."""
        self._proxy.close()
        if self._listeners is not None:
            self._listeners.close()
            self._listeners = None

    # --- observe, plan, apply -------------------------------------------------------------------------------------

    async def _bring_about(
        self, accepted: Mapping[str, Accepted], touched: Collection[str]
    ) -> tuple[RoutePlan, tuple[str, ...], bool]:
        info = await self._ensure_proxy(accepted)
        await self._observe(info, is_urgent=bool(touched))
        plan = self._plan(accepted, touched)
        if plan.slots_needed > info.slots:
            info = await self._start(self._proxy_settings(info), accepted, slots=_room_for(plan.slots_needed))
            await self._observe(info)
            plan = self._plan(accepted, touched)
        picture = self._picture
        assert picture is not None
        older = self._proxy.retire_others(info.pid, rescan=picture.applied is None)
        applied = await apply_plan(self._proxy.runtime, self._settings.paths, plan)
        for problem in applied.problems:
            log.warning("edge.step_refused", problem=problem)
        if applied.problems:
            picture.looked_at = float("-inf")  # Look at it whole in the next round.
            picture.applied = None
        else:
            picture.observed = apply_to(picture.observed, plan, applied.kept)
            picture.busy = (picture.busy - plan.slots) | busy_slots(picture.observed, plan.slots)
            picture.applied, picture.fixed = accepted, self._fixed_hosts()
        return plan, applied.problems, bool(older)

    async def _observe(self, info: ProxyInfo, *, is_urgent: bool = False) -> None:
        """
        Make the picture true: whole when there is none or it is old, else of the slots where something is due. An old
        one will do for a change that is urgent, as long as it isn't very old.
        """
        await reach(OBSERVE)
        now = asyncio.get_running_loop().time()
        paths, picture = self._settings.paths, self._picture
        patience = WHOLE_LOOK_SECONDS * (4 if is_urgent else 1)
        if picture is None or picture.applied is None or now - picture.looked_at > patience:
            hosts, owners, state, stat = await self._proxy.runtime.ask(observe_all((paths.hosts_map, paths.owners_map)))
            servers = parse_servers(state, stat, prefix=SLOT_PREFIX)
            observed = observed_from(parse_map(hosts), parse_map(owners), servers, info.slots)
            self._picture = _Picture(observed, now, busy_slots(observed, observed.servers))
        elif picture.busy:
            answers = await self._proxy.runtime.ask([line for slot in picture.busy for line in show_slot(slot)])
            seen = parse_servers("\n".join(answers[::2]), "\n".join(answers[1::2]), prefix=SLOT_PREFIX)
            calm = {slot: there for slot, there in picture.observed.servers.items() if slot not in picture.busy}
            picture.observed = replace(picture.observed, servers=calm | seen)
            picture.busy = busy_slots(picture.observed, picture.busy)

    def _plan(self, accepted: Mapping[str, Accepted], touched: Collection[str]) -> RoutePlan:
        picture, fixed = self._picture, self._fixed_hosts()
        assert picture is not None
        observed, before = picture.observed, picture.applied
        if before is None or picture.fixed != fixed:
            return plan_routes({app: entry.route for app, entry in accepted.items()}, fixed, observed)
        changed = {*touched, *(observed.owners[slot] for slot in picture.busy if slot in observed.owners)}
        routes = {app: accepted[app].route for app in changed if app in accepted}
        hosts = {host for route in routes.values() for host in route.hosts}
        hosts.update(host for app in changed if app in before for host in before[app].route.hosts)
        return plan_routes(routes, {}, narrow(observed, changed, hosts))

    def _look_again_soon(self, is_busy: bool) -> None:
        self._busy_rounds = self._busy_rounds + 1 if is_busy else 0
        if is_busy:
            wait = BUSY_SECONDS if self._busy_rounds < _HURRY_ROUNDS else 10 * BUSY_SECONDS
            asyncio.get_running_loop().call_later(wait, self._wake.set)

    # --- HAProxy itself -------------------------------------------------------------------------------------------

    async def _ensure_proxy(self, accepted: Mapping[str, Accepted]) -> ProxyInfo:
        """The HAProxy that serves now: the one there is, or one that takes over from it."""
        info = await self._proxy.find_current()
        settings = self._proxy_settings(info)
        if info is not None and info.shape == shape_of(settings) and self._proxy.is_in_namespace(info.pid):
            return info
        stuck = self._proxy.find_processes() if info is None else []
        slots = FIRST_SLOTS if info is None else info.slots
        serving = sum(1 for entry in accepted.values() if entry.route.targets)
        started = await self._start(settings, accepted, slots=max(slots, _room_for(serving)))
        for pid in stuck:
            # It lives and doesn't answer; its clients are better served by the one that took over.
            self._proxy.kill(pid)
        return started

    async def _start(self, settings: ProxySettings, accepted: Mapping[str, Accepted], *, slots: int) -> ProxyInfo:
        if self._listeners is None:
            raise Conflict("HAProxy can't be replaced: its listening sockets are out of reach.")
        self._picture = None
        paths, routes, fixed = settings.paths, {app: e.route for app, e in accepted.items()}, self._fixed_hosts()
        descriptors = [s.fileno() for s in (self._listeners.http, self._listeners.https) if s is not None]
        pages = render_pages(paths)
        try:
            files = pages | render_maps(paths, routes, fixed)
            return await self._proxy.start(render_config(settings, routes, slots=slots), files, descriptors)
        except ConfigRefused as error:
            # Something in the routes that passed our checks and not HAProxy's. Without them it starts, and over
            # its runtime socket each is refused or taken by itself.
            log.error("edge.config_refused", error=str(error))
            files = pages | render_maps(paths, {}, fixed)
            return await self._proxy.start(render_config(settings, {}, slots=slots), files, descriptors)

    def _proxy_settings(self, info: ProxyInfo | None) -> ProxySettings:
        """What HAProxy is configured by. Sees to it that we hold the listening sockets, taken from it or new."""
        ours = self._settings
        if self._listeners is None and info is not None:
            self._listeners = take_listeners(info.pid, ours.address, ours.http_port, ours.https_port)
            log.info("edge.listeners_taken", pid=info.pid, ok=self._listeners is not None)
        if self._listeners is None:
            try:
                self._listeners = open_listeners(ours.address, ours.http_port, ours.https_port)
            except Conflict:
                if info is None:
                    raise
                # HAProxy itself holds the ports and they can't be had: it serves on, we only can't replace it.
        http, https = (None, None) if self._listeners is None else (self._listeners.http, self._listeners.https)
        return ProxySettings(
            paths=ours.paths,
            listening=f"{ours.address} {ours.http_port} {ours.https_port}",
            http_descriptor=None if not ours.http_port else 0 if http is None else http.fileno(),
            https_descriptor=None if not ours.https_port else 0 if https is None else https.fileno(),
            api_socket=ours.api_socket,
            descriptor_limit=resource.getrlimit(resource.RLIMIT_NOFILE)[1],
            user=ours.user,
            group=ours.group,
            trusted_proxies=ours.trusted_proxies,
            patience=ours.patience,
        )

    def _fixed_hosts(self) -> dict[str, str]:
        return {f"api.{self.domain}": API_BACKEND}


def _room_for(apps: int) -> int:
    """Slots for that many apps: doubled as often as needed, so that growing, which replaces HAProxy, stays rare."""
    slots = FIRST_SLOTS
    while slots < apps:
        slots *= 2
    return slots
