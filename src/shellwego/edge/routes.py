"""What must the proxy serve, and which steps take it there without losing a request?

`plan_routes` compares the routes that should be with what HAProxy holds and answers with a frozen plan. HAProxy's
configuration has many empty backends, the slots; an app that has servers owns one. Two maps make it all observable:
`hosts` (host name to backend, read for each request) and `owners` (slot to app, read by nobody but us and the log),
so nothing about an assignment has to be remembered elsewhere. An app without servers has no slot: its host names
lead to a backend that answers with a page.

The order of steps is the promise: newcomers first, then the map, then the leavers. No clock, no socket, no disk here.
`apply_to` says what HAProxy holds once a plan was carried out; the reconciler saves itself a full look with it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import chain

SLOT_PREFIX = "slot"
API_BACKEND = "api"

PAGES = {"starting": "page-starting", "crashed": "page-crashed", "stopped": "page-stopped", "empty": "page-empty"}
"""Which backend answers for an app without servers, by the route's status."""

LINGER_SECONDS = 60
"""How long a server that no route names any more may finish its requests, in case nobody ends them: its peer may be
gone without a word, and a connection to nowhere would hold its slot for ever."""


class Mode(StrEnum):
    """What HAProxy does with a server: send it requests, only let its requests end, or neither."""

    READY = "ready"
    DRAIN = "drain"
    MAINT = "maint"


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """
    One instance at one address. Its name in HAProxy holds both, so that a server whose address changed is another
    server: the new one is added before the old one leaves, and no request is sent to an address that was given away.
    """

    instance: str
    address: str
    port: int

    @property
    def server(self) -> str:
        return f"{self.instance}:{self.address}:{self.port}"


@dataclass(frozen=True, slots=True)
class AppRoute:
    """A route that was checked: lower-case host names that belong to this app alone, sound addresses."""

    app: str
    hosts: tuple[str, ...]
    targets: tuple[Target, ...] = ()
    draining: tuple[Target, ...] = ()
    page: str = PAGES["starting"]
    grace_seconds: float = 10.0


@dataclass(frozen=True, slots=True)
class SeenServer:
    """
    A server as HAProxy has it. `sessions` are its requests under way, None if nobody looked since its mode changed;
    `seconds` is the time since then.
    """

    name: str
    mode: Mode
    sessions: int | None = None
    seconds: int = 0

    @property
    def instance(self) -> str:
        return self.name.partition(":")[0]


@dataclass(frozen=True, slots=True)
class Observed:
    """
    What HAProxy holds. `slots` is their number; only those with a server stand in `servers`. `taken` are more slots, of
    which no more is known than that they aren't free.
    """

    slots: int
    hosts: Mapping[str, str] = field(default_factory=dict)
    owners: Mapping[str, str] = field(default_factory=dict)
    servers: Mapping[str, tuple[SeenServer, ...]] = field(default_factory=dict)
    taken: Collection[str] = ()

    def free_slots(self) -> Iterable[str]:
        """Slots that nobody owns and that hold no server. Behind as many as are used the search is short."""
        begin = min(self.slots, len(self.taken) + len(self.owners))
        names = (f"{SLOT_PREFIX}{number + 1}" for number in chain(range(begin, self.slots), range(begin)))
        return (n for n in names if n not in self.owners and n not in self.servers and n not in self.taken)


@dataclass(frozen=True, slots=True)
class RoutePlan:
    """
    Steps in the order in which they are taken. `slots_needed` over the number there is means: no steps, HAProxy
    must first be started with more.
    """

    claims: tuple[tuple[str, str], ...] = ()  # slot, app
    adds: tuple[tuple[str, Target], ...] = ()
    readies: tuple[tuple[str, str], ...] = ()  # slot, server
    maps: tuple[tuple[str, str, bool], ...] = ()  # host, backend, whether the host is in the map already
    unmaps: tuple[str, ...] = ()
    drains: tuple[tuple[str, str], ...] = ()
    retires: tuple[tuple[str, str], ...] = ()
    shutdowns: tuple[tuple[str, str], ...] = ()
    deletes: tuple[tuple[str, str], ...] = ()
    releases: tuple[str, ...] = ()
    slots_needed: int = 0

    @property
    def slots(self) -> frozenset[str]:
        """Those whose servers it changes."""
        steps = (self.adds, self.readies, self.drains, self.retires, self.shutdowns, self.deletes)
        return frozenset(slot for step in steps for slot, _ in step)

    @property
    def is_noop(self) -> bool:
        return self == RoutePlan(slots_needed=self.slots_needed)


def plan_routes(routes: Mapping[str, AppRoute], fixed: Mapping[str, str], observed: Observed) -> RoutePlan:
    """
    The steps from `observed` to `routes` (by app) and to the `fixed` hosts (the API's own, to its backend).

    Everything in `observed` that no route asks for goes, so a caller that plans for some apps only passes what
    `narrow` leaves. Right from any state; once HAProxy is as asked, the plan is empty.
    """
    slot_of, surplus = _owned_slots(routes, observed)
    homeless = [app for app, route in sorted(routes.items()) if app not in slot_of and route.targets]
    free = list(_take(observed.free_slots(), len(homeless)))
    needed = observed.slots + len(homeless) - len(free)
    if needed > observed.slots:
        return RoutePlan(slots_needed=needed)
    claims = tuple(zip(free, homeless, strict=True))
    slot_of |= {app: slot for slot, app in claims}

    steps = _Steps()
    wanted_hosts = dict(fixed)
    for app, route in routes.items():
        slot = slot_of.get(app)
        if slot is not None:
            _plan_servers(slot, route, observed.servers.get(slot, ()), steps)
        backend = slot if slot is not None and route.targets else route.page
        wanted_hosts.update(dict.fromkeys(route.hosts, backend))
    for slot in surplus:
        _plan_leavers(slot, observed.servers.get(slot, ()), steps)

    leaving = set(steps.deletes)
    releases = [
        slot
        for slot in sorted(observed.owners)
        if slot in surplus and all((slot, server.name) in leaving for server in observed.servers.get(slot, ()))
    ]
    return RoutePlan(
        claims=claims,
        adds=tuple(steps.adds),
        readies=tuple(steps.readies),
        maps=tuple(
            (host, backend, host in observed.hosts)
            for host, backend in wanted_hosts.items()
            if observed.hosts.get(host) != backend
        ),
        unmaps=tuple(host for host in observed.hosts if host not in wanted_hosts),
        drains=tuple(steps.drains),
        retires=tuple(steps.retires),
        shutdowns=tuple(steps.shutdowns),
        deletes=tuple(steps.deletes),
        releases=tuple(releases),
        slots_needed=needed,
    )


def assign_slots(routes: Mapping[str, AppRoute]) -> dict[str, str]:
    """Slots, by app, for a HAProxy that is about to start and holds nothing yet."""
    serving = [app for app, route in sorted(routes.items()) if route.targets]
    return {app: f"{SLOT_PREFIX}{number}" for number, app in enumerate(serving, start=1)}


def narrow(observed: Observed, apps: Collection[str], hosts: Collection[str]) -> Observed:
    """What a plan for these apps, and the host names that they have or had, needs to see."""
    owned = {slot: app for slot, app in observed.owners.items() if app in apps}
    return Observed(
        slots=observed.slots,
        hosts={host: observed.hosts[host] for host in hosts if host in observed.hosts},
        owners=owned,
        servers={slot: observed.servers[slot] for slot in owned if slot in observed.servers},
        taken=_Taken(observed),
    )


def apply_to(observed: Observed, plan: RoutePlan, refused: Collection[tuple[str, str]] = ()) -> Observed:
    """
    What HAProxy holds after the plan. `refused` names (slot, server) pairs that it would not delete yet, because
    requests are under way.
    """
    hosts, owners, servers = dict(observed.hosts), dict(observed.owners), dict(observed.servers)
    hosts.update((host, backend) for host, backend, _ in plan.maps)
    for host in plan.unmaps:
        hosts.pop(host, None)
    owners.update(plan.claims)
    touched: dict[str, dict[str, SeenServer]] = {}

    def there(slot: str) -> dict[str, SeenServer]:
        return touched.setdefault(slot, {server.name: server for server in servers.get(slot, ())})

    for slot, target in plan.adds:
        there(slot)[target.server] = SeenServer(target.server, Mode.READY)
    for mode, moves in ((Mode.READY, plan.readies), (Mode.DRAIN, plan.drains), (Mode.MAINT, plan.retires)):
        for slot, name in moves:
            there(slot)[name] = SeenServer(name, mode)
    for slot, name in plan.deletes:
        if (slot, name) not in refused:
            there(slot).pop(name, None)
    for slot, left in touched.items():
        servers[slot] = tuple(left.values())
        if not left:
            del servers[slot]
    for slot in plan.releases:
        if slot not in servers:
            owners.pop(slot, None)
    return replace(observed, hosts=hosts, owners=owners, servers=servers)


def busy_slots(observed: Observed, among: Iterable[str]) -> frozenset[str]:
    """Where a server drains or waits to be deleted."""
    return frozenset(
        slot for slot in among if any(server.mode is not Mode.READY for server in observed.servers.get(slot, ()))
    )


def find_drained(routes: Collection[AppRoute], observed: Observed, *, older_proxies: bool) -> frozenset[str]:
    """
    Which draining instances have no request under way any more, or have had their grace.

    `older_proxies` says that a HAProxy which was replaced still finishes requests, unseen by us: then only grace
    counts for servers that are still there, because such a request may belong to any of them.
    """
    drained = set()
    names = {target.server for route in routes for target in route.draining}
    seen = {s.name: s for there in observed.servers.values() for s in there if s.name in names} if names else {}
    for route in routes:
        for target in route.draining:
            server = seen.get(target.server)
            if server is None:
                drained.add(target.instance)
            elif server.mode is not Mode.READY:
                ended = server.sessions == 0 and not older_proxies
                # Whole seconds are all that HAProxy tells, rounded down, so ">" would give a second more than asked.
                if ended or server.seconds >= route.grace_seconds:
                    drained.add(target.instance)
    return frozenset(drained)


# --- private parts ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Taken(Collection[str]):
    """The slots that are used, without a copy of their names."""

    observed: Observed

    def __contains__(self, slot: object) -> bool:
        seen = self.observed
        return slot in seen.owners or slot in seen.servers or slot in seen.taken

    def __iter__(self) -> Iterator[str]:
        seen = self.observed
        return iter({*seen.owners, *seen.servers, *seen.taken})

    def __len__(self) -> int:
        return len(self.observed.owners)


@dataclass(slots=True)
class _Steps:
    adds: list[tuple[str, Target]] = field(default_factory=list)
    readies: list[tuple[str, str]] = field(default_factory=list)
    drains: list[tuple[str, str]] = field(default_factory=list)
    retires: list[tuple[str, str]] = field(default_factory=list)
    shutdowns: list[tuple[str, str]] = field(default_factory=list)
    deletes: list[tuple[str, str]] = field(default_factory=list)


def _owned_slots(routes: Mapping[str, AppRoute], observed: Observed) -> tuple[dict[str, str], list[str]]:
    """Each app's slot, and the slots that nobody should own: two of one app (the first stays), or of no app."""
    slot_of: dict[str, str] = {}
    surplus: list[str] = []
    for slot in sorted({*observed.owners, *observed.servers}, key=_slot_number):
        app = observed.owners.get(slot)
        route = routes.get(app) if app is not None else None
        kept = route is not None and (route.targets or _still_draining(route, observed.servers.get(slot, ())))
        if app is None or not kept or app in slot_of:
            surplus.append(slot)
        else:
            slot_of[app] = slot
    return slot_of, surplus


def _still_draining(route: AppRoute, there: Sequence[SeenServer]) -> bool:
    names = {target.server for target in route.draining}
    return any(server.name in names for server in there)


def _plan_servers(slot: str, route: AppRoute, there: Sequence[SeenServer], steps: _Steps) -> None:
    targets = {target.server: target for target in route.targets}
    draining = {target.server for target in route.draining}
    present = {server.name for server in there}
    steps.adds += [(slot, target) for name, target in targets.items() if name not in present]
    for server in there:
        if server.name in targets:
            if server.mode is not Mode.READY:
                steps.readies.append((slot, server.name))
        elif server.name in draining:
            if server.mode is Mode.READY:
                steps.drains.append((slot, server.name))
        else:
            _plan_leaver(slot, server, steps)


def _plan_leavers(slot: str, there: Sequence[SeenServer], steps: _Steps) -> None:
    for server in there:
        _plan_leaver(slot, server, steps)


def _plan_leaver(slot: str, server: SeenServer, steps: _Steps) -> None:
    if server.mode is not Mode.MAINT:
        steps.retires.append((slot, server.name))
    elif server.sessions and server.seconds >= LINGER_SECONDS:
        steps.shutdowns.append((slot, server.name))
    # HAProxy refuses to delete a server with connections; it is asked again in the next round.
    steps.deletes.append((slot, server.name))


def _slot_number(slot: str) -> tuple[int, str]:
    digits = slot.removeprefix(SLOT_PREFIX)
    return (int(digits) if digits.isdigit() else 1 << 30, slot)


def _take(names: Iterable[str], count: int) -> Iterable[str]:
    for name, _ in zip(names, range(count), strict=False):
        yield name
