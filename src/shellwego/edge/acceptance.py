"""Which of the routes that the server asks for can be served as they are?

One poisoned route must harm nobody else: it is refused alone and named in `problems`, and what was in force for its
app stays. Everything that reaches HAProxy's runtime socket has passed here, so no value can be taken for a command.
Pure; a route that is the same as last time is not looked at twice, since a change among thousands must be cheap.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address

from shellwego.core.apps import MAXIMUM_INSTANCES
from shellwego.edge.routes import PAGES, AppRoute, Target
from shellwego.protocol.messages import Route, RouteServer

_OURS = "the cloud itself"

MAXIMUM_HOSTS = 100
MAXIMUM_GRACE_SECONDS = 3600.0

# RFC 1123 host names, 253 characters at most. HAProxy's map would take anything without a space or a line's end.
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")
_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True)
class Accepted:
    """A route as it was asked for, and as it is served."""

    raw: Route
    route: AppRoute


@dataclass(frozen=True, slots=True)
class Refusal:
    """
    Why a route can't be served. It is tried again at every change, for what stood against it may have gone, unless
    `raw` is None.
    """

    raw: Route | None
    problem: str


@dataclass(frozen=True, slots=True)
class Acceptance:
    """
    What is served, by app, and who holds each host name; what is refused, by app; and which apps are served although
    the server, which knows no more of them, didn't ask. In `touched` apps this differs from the one before.
    """

    accepted: Mapping[str, Accepted] = field(default_factory=dict)
    holders: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, Refusal] = field(default_factory=dict)
    unknown: frozenset[str] = frozenset()
    touched: frozenset[str] = frozenset()

    @property
    def problems(self) -> list[str]:
        """A sentence for each route that is refused, and for each that nobody asks for."""
        unknown = (self.accepted[app].raw for app in sorted(self.unknown))
        return [
            *(refusal.problem for refusal in self.refused.values()),
            *(f"{shown(raw)} is unknown to the server and goes on being served" for raw in unknown),
        ]


def accept_all(
    asked: Sequence[Route], gone: Collection[str], before: Acceptance, *, reserved: Collection[str] = ()
) -> Acceptance:
    """
    These routes and no others, but for those that were served before and aren't named: neither asked for nor gone. A
    server that lost its database knows nothing of some apps, and that must not take them off the net.
    """
    named = {raw.app for raw in asked}
    unknown = frozenset(before.accepted.keys() - named - set(gone))
    known = replace(before, refused={}, unknown=unknown)
    return _accept(asked, [app for app in gone if app not in named], known, reserved)


def accept_changes(
    asked: Sequence[Route], gone: Collection[str], before: Acceptance, *, reserved: Collection[str] = ()
) -> Acceptance:
    """The same with these routes new or different and these apps gone. Costs little, however many there are."""
    named = {raw.app for raw in asked}.union(gone)
    refused = (refusal.raw for app, refusal in before.refused.items() if app not in named)
    again = [raw for raw in refused if raw is not None]
    known = replace(before, refused={}, unknown=before.unknown - named)
    return _accept([*asked, *again], gone, known, reserved)


def _accept(asked: Sequence[Route], gone: Collection[str], before: Acceptance, reserved: Collection[str]) -> Acceptance:
    """
    Of two apps that ask for one host name, the one that had it keeps it, else the first. What is refused leaves in
    force what its app had, but for names that it wanted to give up and another one took. `reserved` hosts are ours.
    """
    accepted, holders, refused = dict(before.accepted), dict(before.holders), {}
    unknown = set(before.unknown)
    touched: set[str] = set()

    def drop(app: str) -> None:
        if (entry := accepted.pop(app, None)) is not None:
            release(app, entry.route.hosts)
            unknown.discard(app)
            touched.add(app)

    def release(app: str, hosts: Iterable[str]) -> None:
        for host in hosts:
            if holders.get(host) == app:
                del holders[host]

    def refuse(raw: Route, why: str, *, again: bool = True) -> None:
        refused[raw.app] = Refusal(raw if again else None, f"route of {shown(raw)} refused: {why}")

    for app in gone:
        drop(app)
    for host in reserved:
        if (holder := holders.get(host)) is not None:
            refuse(accepted[holder].raw, f"{host} belongs to {_OURS}")
            drop(holder)

    new: dict[str, Accepted] = {}
    seen: set[str] = set()
    for raw in asked:
        if raw.app in seen:
            refuse(raw, "it is there twice", again=False)
            continue
        seen.add(raw.app)
        there = accepted.get(raw.app)
        if there is not None and there.raw == raw:
            continue
        try:
            new[raw.app] = Accepted(raw, _check(raw))
        except ValueError as error:
            refuse(raw, str(error))

    for app, entry in new.items():  # Before the first name is taken, every name that is given up is free.
        if (there := accepted.get(app)) is not None:
            release(app, set(there.route.hosts).difference(entry.route.hosts))
    for app, entry in new.items():
        in_the_way = {holders[host] for host in entry.route.hosts if holders.get(host, app) != app}
        in_the_way.update(_OURS for host in entry.route.hosts if host in reserved)
        if entry.route.targets and in_the_way <= unknown:
            # What nobody asks for makes way for one that is ready to serve its name.
            for other in in_the_way:
                drop(other)
        elif in_the_way:
            taken = ", ".join(h for h in entry.route.hosts if h in reserved or holders.get(h, app) != app)
            refuse(entry.raw, f"{taken} belongs to {', '.join(sorted(in_the_way))}")
            if app not in accepted:
                continue
            entry = _without(accepted[app], {h for h in accepted[app].route.hosts if holders.get(h, app) != app})
        accepted[app] = entry
        touched.add(app)
        holders.update(dict.fromkeys(entry.route.hosts, app))
    return Acceptance(accepted, holders, refused, frozenset(unknown), frozenset(touched))


def _without(entry: Accepted, hosts: Collection[str]) -> Accepted:
    if not hosts:
        return entry
    left = tuple(host for host in entry.route.hosts if host not in hosts)
    return Accepted(entry.raw, replace(entry.route, hosts=left))


def shown(raw: Route) -> str:
    return f"{raw.app_name[:80]!r} ({raw.app[:80]!r})"


def _check(raw: Route) -> AppRoute:
    """Raises ValueError with the reason."""
    if _ID.fullmatch(raw.app) is None:
        raise ValueError(f"{raw.app[:80]!r} is not an id")
    hosts = tuple(dict.fromkeys(host.lower().rstrip(".") for host in raw.hosts))
    if len(hosts) > MAXIMUM_HOSTS:
        raise ValueError(f"more than {MAXIMUM_HOSTS} host names")
    for host in hosts:
        if _HOST.fullmatch(host) is None:
            raise ValueError(f"{host[:80]!r} is not a host name")
    targets = tuple(sorted({_target(server) for server in raw.servers}))
    if len(targets) > MAXIMUM_INSTANCES:
        raise ValueError(f"more than {MAXIMUM_INSTANCES} servers")
    leaving = {_target(server) for server in raw.draining}.difference(targets)
    if not 0 <= raw.grace_seconds <= MAXIMUM_GRACE_SECONDS:
        raise ValueError(f"a grace of {raw.grace_seconds} seconds")
    page = PAGES.get(raw.status, PAGES["starting"])
    return AppRoute(raw.app, hosts, targets, tuple(sorted(leaving)), page, raw.grace_seconds)


def _target(server: RouteServer) -> Target:
    if _ID.fullmatch(server.instance) is None:
        raise ValueError(f"{server.instance[:80]!r} is not an instance's id")
    address = ip_address(server.address)  # Raises ValueError by itself.
    if address.is_multicast or address.is_unspecified or getattr(address, "scope_id", None) is not None:
        raise ValueError(f"{server.address[:80]!r} is not an instance's address")
    if not 1 <= server.port <= 65535:
        raise ValueError(f"{server.port} is not a port")
    return Target(server.instance, str(address), server.port)
