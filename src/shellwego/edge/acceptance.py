"""Which of the routes that the server asks for can be served as they are?

One poisoned route must harm nobody else: it is refused alone and named in `problems`, and what was in force for its
app stays. Everything that reaches HAProxy's runtime socket has passed here, so no value can be taken for a command.
Pure; a route that is the same as last time is not looked at twice, since a change among thousands must be cheap.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
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


def accept_routes(
    asked: Sequence[Route], previous: Mapping[str, Accepted], *, reserved: Iterable[str] = ()
) -> tuple[dict[str, Accepted], list[str]]:
    """
    The routes to serve, by app, and a sentence for each one that is refused.

    Of two apps that ask for one host name, the one that had it keeps it, else the first. `reserved` hosts are ours.
    """
    problems: list[str] = []
    accepted: dict[str, Accepted] = {}
    changed: list[str] = []
    for raw in asked:
        app = raw.app
        if app in accepted:
            problems.append(f"route of {shown(raw)} refused: it is there twice")
            continue
        entry = previous.get(app)
        if entry is None or entry.raw != raw:
            try:
                entry = Accepted(raw, _check(raw))
                changed.append(app)
            except ValueError as error:
                problems.append(f"route of {shown(raw)} refused: {error}")
                if entry is None:
                    continue
        accepted[app] = entry

    # Whoever had a name and still asks for it keeps it. Unchanged routes were free of conflicts among each other
    # before, so only the changed ones, and reserved names, are looked at one by one.
    moving = set(changed)
    holder = {host: app for app, entry in accepted.items() if app not in moving for host in entry.route.hosts}
    for host in reserved:
        if (app := holder.get(host, "")) in accepted:
            problems.append(f"route of {shown(accepted.pop(app).raw)} refused: {host} belongs to {_OURS}")
        holder[host] = _OURS
    for app in changed:
        if (before := previous.get(app)) is not None:
            kept = set(before.route.hosts).intersection(accepted[app].route.hosts)
            for host in kept:
                holder.setdefault(host, app)
    for app in changed:
        taken = next((host for host in accepted[app].route.hosts if holder.setdefault(host, app) != app), None)
        if taken is not None:
            refused = accepted.pop(app)
            problems.append(f"route of {shown(refused.raw)} refused: {taken} belongs to {holder[taken]}")
    return accepted, problems


def kept_routes(asked: Sequence[Route], gone: Collection[str], previous: Mapping[str, Accepted]) -> list[Route]:
    """
    Routes that nobody asks for any more and nobody called gone: their apps go on being served. One makes way when
    another app is ready to serve one of its host names.
    """
    named = {raw.app for raw in asked}.union(gone)
    left = [entry for app, entry in previous.items() if app not in named]
    if not left:
        return []
    ready = {host.lower().rstrip(".") for raw in asked if raw.servers for host in raw.hosts}
    return [entry.raw for entry in left if ready.isdisjoint(entry.route.hosts)]


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
