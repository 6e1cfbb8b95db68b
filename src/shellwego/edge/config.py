"""What does HAProxy's configuration say?

Pure text. The file is written only when HAProxy is about to start or to be replaced; while it runs, every change goes
through its runtime socket. It then carries the servers and maps of that moment, because a start forgets what was
added at run time. `shape_of` is a fingerprint of everything else (ports, certificates, limits, this template): a
running HAProxy of another shape is replaced, by hand-over.

Why the less obvious lines are there is said beside them.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from shellwego.edge.pages import CONTENT_TYPES, ERROR_PAGES, KINDS, ROUTE_PAGES, render_page
from shellwego.edge.routes import API_BACKEND, SLOT_PREFIX, AppRoute, assign_slots

SERVER_OPTIONS = "pool-max-conn 128 pool-purge-delay 1s"
"""
How long HAProxy keeps idle connections to an app: the last one goes with the third purge, before Node's five seconds,
so that the app rarely closes one in the moment it is used. Given for each server, since `add server` ignores
`default-server`.
"""

_SAFE = "method GET HEAD OPTIONS"
"""What may be sent a second time when it was sent once and nothing came back."""

_REQUEST_ID = "%Ts-%pid-%rt"
"""
When it came, to which process, as its how manieth request: the same wherever one request asks for it. `unique-id`,
uuid() and hexadecimal digits all cost more.
"""

_ACCEPTED = {"html": "text/html", "json": "json"}
"""What in a request's Accept asks for which kind of page, the first that fits."""

LOG_ALL_BELOW = 200
LOG_ONE_OF = 32
LOG_FEW_ABOVE = 5000
LOG_FEW_OF = 512
"""
Up to LOG_ALL_BELOW requests per second each is logged, beyond that one in LOG_ONE_OF, and beyond LOG_FEW_ABOVE one in
LOG_FEW_OF, weighted so: reading a line costs us more than a request costs HAProxy.
"""

_DESCRIPTORS_RESERVED = 1200
_MAXIMUM_CONNECTIONS = 50_000


@dataclass(frozen=True, slots=True)
class ProxyPaths:
    """
    Every file that HAProxy is told about, below one directory of root's. Its path has no space or other character
    that means something to HAProxy; copies of the certificates are there too.
    """

    directory: Path

    @property
    def config(self) -> Path:
        return self.directory / "haproxy.cfg"

    @property
    def socket(self) -> Path:
        return self.directory / "haproxy.sock"

    @property
    def log_socket(self) -> Path:
        return self.directory / "log.sock"

    @property
    def output(self) -> Path:
        return self.directory / "haproxy.log"

    @property
    def hosts_map(self) -> Path:
        return self.directory / "hosts.map"

    @property
    def owners_map(self) -> Path:
        return self.directory / "owners.map"

    @property
    def certificates(self) -> Path:
        return self.directory / "certificates"

    @property
    def pages(self) -> Path:
        return self.directory / "pages"


@dataclass(frozen=True, slots=True)
class Patience:
    """
    How long a client may keep us waiting: for a request's headers as a whole, and without a byte sent or taken after
    that. Not for a body or an answer as a whole: event streams and slow uploads may take all day.
    """

    headers_seconds: float = 15.0
    silence_seconds: float = 900.0


@dataclass(frozen=True, slots=True)
class ProxySettings:
    """
    What an operator, or the machine, decides. Listeners are descriptors that HAProxy inherits; None is off.
    `listening` says in words on which address and ports they are.
    """

    paths: ProxyPaths
    listening: str
    http_descriptor: int | None
    https_descriptor: int | None
    api_socket: Path
    descriptor_limit: int
    user: str = ""
    group: str = ""
    trusted_proxies: tuple[str, ...] = ()
    patience: Patience = field(default_factory=Patience)

    @property
    def connections_of_one(self) -> int:
        """
        How many connections one address may hold: four of them would be needed to take all. Not fewer, since a load
        balancer in front of us is one address.
        """
        return max(50, maximum_connections(self.descriptor_limit) // 4)


def maximum_connections(descriptor_limit: int) -> int:
    """HAProxy needs two descriptors for a connection, and some for itself; asked for more it won't start."""
    return max(100, min(_MAXIMUM_CONNECTIONS, (descriptor_limit - _DESCRIPTORS_RESERVED) // 2))


@functools.lru_cache(maxsize=4)  # Asked for in every round.
def shape_of(settings: ProxySettings) -> str:
    """The fingerprint that a running HAProxy shows in its description. Descriptor numbers don't count."""

    def listens(descriptor: int | None) -> int | None:
        return None if descriptor is None else 0

    same = replace(
        settings,
        http_descriptor=listens(settings.http_descriptor),
        https_descriptor=listens(settings.https_descriptor),
    )
    text = settings.listening + _render(same, {}, {}, 0, "") + repr(sorted(render_pages(settings.paths).items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def render_config(settings: ProxySettings, routes: Mapping[str, AppRoute], *, slots: int) -> str:
    """haproxy.cfg with `slots` backends for apps and the servers of `routes` in them."""
    return _render(settings, routes, assign_slots(routes), slots, shape_of(settings))


def render_maps(paths: ProxyPaths, routes: Mapping[str, AppRoute], fixed: Mapping[str, str]) -> dict[Path, str]:
    """The two maps as HAProxy shall find them when it starts."""
    slot_of = assign_slots(routes)
    hosts = dict(fixed)
    for app, route in routes.items():
        hosts.update(dict.fromkeys(route.hosts, slot_of.get(app, route.page)))
    return {
        paths.hosts_map: "".join(f"{host} {backend}\n" for host, backend in hosts.items()),
        paths.owners_map: "".join(f"{slot} {app}\n" for app, slot in slot_of.items()),
    }


def render_pages(paths: ProxyPaths) -> dict[Path, str]:
    """The bodies that HAProxy answers with by itself, read once at its start."""
    files = {
        _page_file(paths, name, kind): render_page(page, kind) + ("" if kind == "html" else "\n")
        for name, page in ROUTE_PAGES.items()
        for kind in KINDS
    }
    for status, page in ERROR_PAGES.items():
        # The first line whose key is part of the request's Accept decides.
        files[_errors_map(paths, status)] = "".join(
            f"{_ACCEPTED[kind]} {render_page(page, kind)}\n" for kind in KINDS if kind in _ACCEPTED
        )
    return files


def _render(
    settings: ProxySettings, routes: Mapping[str, AppRoute], slot_of: Mapping[str, str], slots: int, shape: str
) -> str:
    sections = [
        _global(settings, shape, slots),
        _defaults(settings),
        _frontend(settings),
        *(_page_backend(settings.paths, name) for name in ROUTE_PAGES),
        f"backend {API_BACKEND}\n    http-request disable-l7-retry unless {{ {_SAFE} }}\n"
        f"    server api unix@{settings.api_socket} {SERVER_OPTIONS}\n",
        _app_defaults(),
    ]
    app_of = {slot: app for app, slot in slot_of.items()}
    for number in range(1, slots + 1):
        slot = f"{SLOT_PREFIX}{number}"
        lines = [f"backend {slot}"]
        if slot in app_of:
            lines += [
                f"    server {target.server} {_with_port(target.address, target.port)} {SERVER_OPTIONS}"
                for target in routes[app_of[slot]].targets
            ]
        sections.append("\n".join(lines) + "\n")
    return "\n".join(sections)


def _with_port(address: str, port: int) -> str:
    # HAProxy takes the last colon for the port's, so a version 6 address needs no brackets; they are for people.
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _global(settings: ProxySettings, shape: str, slots: int) -> str:
    paths = settings.paths
    lines = [
        "global",
        f"    description shape={shape} slots={slots}",
        f"    stats socket {paths.socket} mode 600 level admin expose-fd listeners",
        "    stats timeout 1m",
        f"    maxconn {maximum_connections(settings.descriptor_limit)}",
        f"    log {paths.log_socket} format raw local0",
        # A replaced HAProxy goes on with its streams, but not for ever.
        "    hard-stop-after 24h",
        "    ssl-default-bind-options ssl-min-ver TLSv1.2",
        # Every processor of a server has AES; with 256 bits it costs a twentieth of a request more.
        "    ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256",
        "    ssl-default-bind-ciphers ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"
        "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"
        "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305",
    ]
    if settings.user:
        lines.append(f"    user {settings.user}")
    if settings.group:
        lines.append(f"    group {settings.group}")
    return "\n".join(lines) + "\n"


def _defaults(settings: ProxySettings) -> str:
    paths, patience = settings.paths, settings.patience
    lines = [
        "defaults all",
        "    mode http",
        "    log global",
        "    balance roundrobin",
        # The first request of a client's connection never goes over an idle connection, so a client that can't
        # retry isn't hurt when the app closes that one in the same moment.
        "    http-reuse safe",
        "    timeout connect 2s",
        # Headers must be complete in this time (slowloris).
        f"    timeout http-request {_milliseconds(patience.headers_seconds)}",
        "    timeout http-keep-alive 75s",
        "    timeout queue 30s",
        # Silence, not length: event streams and slow uploads may take all day if they say something now and then.
        f"    timeout client {_milliseconds(patience.silence_seconds)}",
        f"    timeout server {_milliseconds(patience.silence_seconds)}",
        "    timeout client-fin 30s",
        "    timeout tunnel 24h",
        # Another server is tried at once when one can't be connected to. What of that was sent may be sent again is
        # narrowed down where it goes: see disable-l7-retry.
        "    retries 3",
        "    option redispatch 1",
        "    retry-on conn-failure empty-response",
        "    option http-no-delay",
        "    option http-ignore-probes",
        "    option clitcpka",
        "    option srvtcpka",
    ]
    for status, page in ERROR_PAGES.items():
        text = render_page(page, "text")
        lines.append(
            f"    http-error status {status} content-type {_OWN_ERROR} "
            f"lf-string \"%[var(txn.accept,-),map_sub({_errors_map(paths, status)},'{text}')]\\n\""
        )
    return "\n".join(lines) + "\n"


def _app_defaults() -> str:
    return (
        "defaults app from all\n"
        # Being able to send a request again costs a copy of its whole buffer, a tenth of what a request costs. Where
        # one server is all there is, it would only meet the one that just died of it.
        f"    http-request disable-l7-retry if {{ nbsrv lt 2 }} or !{{ {_SAFE} }}\n"
    )


def _milliseconds(seconds: float) -> str:
    return f"{max(1, round(seconds * 1000))}ms"


_OWN_ERROR = "application/x-proxy-error"
"""Marks an error of HAProxy's own until its real type is set: `http-error` can't choose one by itself."""


def _frontend(settings: ProxySettings) -> str:
    paths = settings.paths
    lines = ["frontend edge"]
    if settings.http_descriptor is not None:
        lines.append(f"    bind fd@{settings.http_descriptor}")
    if settings.https_descriptor is not None:
        lines.append(f"    bind fd@{settings.https_descriptor} ssl crt {paths.certificates}/ alpn h2,http/1.1")
    trusted = " ".join(settings.trusted_proxies)
    if trusted:
        lines.append(f"    acl from_trusted src {trusted}")
    unless = " unless from_trusted" if trusted else ""

    def ours(name: str, value: str) -> str:
        # What a client sent is gone by then; what a trusted proxy sent stays.
        missing = f" unless {{ req.hdr({name}) -m found }}" if trusted else ""
        return f"    http-request add-header {name} {value}{missing}"

    lines += [
        # Nobody may take all connections there are by dribbling on some hundreds of them.
        "    stick-table type ipv6 size 100k expire 1m store conn_cur",
        f"    tcp-request connection track-sc0 src{unless}",
        f"    tcp-request connection reject if {{ sc0_conn_cur gt {settings.connections_of_one} }}",
        # Written out once for a connection: it costs more than the header itself.
        "    tcp-request connection set-var-fmt(sess.client) %[src]",
        # A soft stop lets an idle client send one more request, and closes with the answer.
        "    option idle-close-on-response",
        # `X_Forwarded_For` becomes the same variable as `X-Forwarded-For` in many frameworks (CGI, WSGI).
        "    option http-restrict-req-hdr-names delete",
        # HAProxy 2.6 lets NUL through in a value (RFC 9110, 5.5 says reject it), and not every app does.
        "    http-request deny deny_status 400 if { req.hdrs -m reg \\\\x00 }",
        # Looked into only when a page is due.
        "    http-request set-var(txn.accept) req.fhdr(accept)",
        f"    http-request del-header forwarded{unless}",
        f"    http-request del-header x-forwarded- -m beg{unless}",
        f"    http-request del-header x-real-ip{unless}",
        "    http-request add-header x-forwarded-for %[var(sess.client)]",
        ours("x-forwarded-proto", "%[ssl_fc,iif(https,http)]"),
        ours("x-forwarded-host", "%[req.fhdr(host)]"),
        ours("x-forwarded-port", "%[dst_port]"),
        "    http-request set-var(txn.id) req.fhdr(x-request-id) if { req.fhdr_cnt(x-request-id) eq 1 } "
        "{ req.fhdr(x-request-id) -m reg ^[A-Za-z0-9_.-]{8,128}$ }",
        f"    http-request set-header x-request-id {_REQUEST_ID} unless {{ var(txn.id) -m found }}",
        "    http-after-response allow if { status lt 400 }",  # All below is about errors.
        "    http-after-response set-header x-request-id %[var(txn.id)] if { var(txn.id) -m found }",
        f"    http-after-response set-header x-request-id {_REQUEST_ID} unless {{ var(txn.id) -m found }}",
        *(
            f"    http-after-response set-header content-type '{CONTENT_TYPES[kind]}' "
            f"if {{ res.hdr(content-type) -m str {_OWN_ERROR} }} {condition}"
            for kind, condition in _by_kind()
        ),
        f"    http-request set-log-level silent if {{ fe_req_rate gt {LOG_ALL_BELOW} }} !{{ rand({LOG_ONE_OF}) eq 0 }}",
        f"    http-request set-log-level silent if {{ fe_req_rate gt {LOG_FEW_ABOVE} }} "
        f"!{{ rand({LOG_FEW_OF // LOG_ONE_OF}) eq 0 }}",
        f'    log-format "%[be_name,map_str({paths.owners_map},-)] %b %ST %B %Ta %ts %[fe_req_rate]"',
        # A host that isn't in the map names no backend, and none is the default one.
        f"    use_backend %[req.fhdr(host),field(1,:),rtrim(.),lower,map_str({paths.hosts_map})]",
        "    default_backend page-unknown",
    ]
    return "\n".join(lines) + "\n"


def _page_backend(paths: ProxyPaths, name: str) -> str:
    page = ROUTE_PAGES[name]
    headers = " hdr cache-control no-store"
    if page.refresh_seconds is not None:
        headers += f" hdr retry-after {page.refresh_seconds}"
    lines = [f"backend {name}"]
    for kind, condition in _by_kind():
        only = f" if {condition}" if condition else ""
        lines.append(
            f"    http-request return status {page.status} content-type '{CONTENT_TYPES[kind]}' "
            f"file {_page_file(paths, name, kind)}{headers}{only}"
        )
    return "\n".join(lines) + "\n"


def _by_kind() -> Sequence[tuple[str, str]]:
    """Each kind of body with its condition; text is what is left."""
    return (*((kind, f"{{ var(txn.accept) -m sub {word} }}") for kind, word in _ACCEPTED.items()), ("text", ""))


def _page_file(paths: ProxyPaths, name: str, kind: str) -> Path:
    return paths.pages / f"{name}.{kind}"


def _errors_map(paths: ProxyPaths, status: int) -> Path:
    return paths.pages / f"{status}.map"
