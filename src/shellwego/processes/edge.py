"""What does the edge process consist of?

The reconciler with its HAProxy, the link to the server, the certificates, and the access log; each a loop with a
name under one owner. When this process ends, HAProxy goes on serving: a restart of the edge is nothing that a
visitor can see. `stop_proxy` is what ends HAProxy too, for `shellwego up` and for an uninstall.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import grp
import os
import pwd
import shutil
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import structlog

from shellwego.core.errors import Conflict, EngineMissing
from shellwego.edge.access_log import AccessLog, serve_metrics
from shellwego.edge.certificates import CertificateKeeper, LocalAuthority
from shellwego.edge.config import Patience, ProxyPaths
from shellwego.edge.haproxy import ConfigRefused, HAProxy
from shellwego.edge.link import ServerLink
from shellwego.edge.reconciler import EdgeReconciler, EdgeSettings
from shellwego.kit.clock import utc_now
from shellwego.kit.supervise import apart, forever
from shellwego.processes.child import begin

log = structlog.get_logger()

_USERS = ("haproxy", "nobody")
_NAMESPACE_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class EdgeOptions:
    """
    What an operator chooses. A port of 0 turns that listener off. `namespace` is the data plane's, as ip-netns(8)
    makes them, waited for if it isn't there yet; None serves from the host's own network.
    """

    data_dir: Path
    run_dir: Path
    domain: str
    address: str = "0.0.0.0"  # noqa: S104 - a server's front door
    http_port: int = 80
    https_port: int = 443
    namespace: Path | None = None
    haproxy: Path = Path("haproxy")
    trusted_proxies: tuple[str, ...] = ()
    patience: Patience = field(default_factory=Patience)
    name: str = "edge"

    @property
    def paths(self) -> ProxyPaths:
        return ProxyPaths(self.run_dir / "edge")

    @property
    def authority(self) -> Path:
        """The certificate that users may trust: `curl --cacert`."""
        return self.data_dir / "edge" / "ca.pem"


async def run_edge(options: EdgeOptions, *, ready: asyncio.Event | None = None) -> None:
    """
    Serve until cancelled. `ready` is set when HAProxy serves for the first time. HAProxy outlives the end.

    Raises InvalidField, Conflict (a port is taken) and EngineMissing at the start.
    """
    if not options.http_port and not options.https_port:
        raise ValueError("Both ports are off: an edge must listen somewhere.")
    user, group = _proxy_user()
    _ensure_directories(options)
    await _wait_for(options.namespace)

    wake, hosts_changed = asyncio.Event(), asyncio.Event()
    proxy = HAProxy(_program(options.haproxy), options.paths, namespace=options.namespace, on_death=wake.set)
    settings = EdgeSettings(
        paths=options.paths,
        address=options.address,
        http_port=options.http_port,
        https_port=options.https_port,
        domain=options.domain,
        api_socket=options.run_dir / "api.sock",
        routes_file=options.data_dir / "edge" / "routes.json",
        trusted_proxies=options.trusted_proxies,
        patience=options.patience,
        user=user,
        group=group,
    )
    reconciler = EdgeReconciler(settings, proxy, wake=wake, on_report=lambda report: link.report(report))
    link = ServerLink(
        options.run_dir / "control.sock",
        edge=options.name,
        version=version("shellwego"),
        want=reconciler.want,
        cloud=lambda: reconciler.cloud,
    )
    authority = LocalAuthority.ensure(options.data_dir / "edge", options.domain, utc_now())
    keeper = CertificateKeeper(
        options.data_dir / "edge" / "certificates", options.paths.certificates, authority, proxy.runtime
    )
    access_log = AccessLog(options.paths.log_socket)
    certified: frozenset[str] = frozenset()

    async def keep_certificates() -> None:
        nonlocal certified
        hosts = reconciler.hosts
        await keeper.keep(reconciler.domain, hosts, check_all=hosts == certified)
        certified = hosts

    async def reconcile() -> None:
        _let_proxy_reach(settings.api_socket, group)
        await reconciler.round()
        if reconciler.hosts is not certified:
            hosts_changed.set()
        if ready is not None:
            ready.set()

    await keep_certificates()  # HAProxy won't start without one.
    try:
        try:
            await reconcile()
        except (Conflict, EngineMissing, ConfigRefused):
            raise  # The operator's to know at once, not a loop's to retry.
        except Exception as error:
            log.warning("edge.first_round_failed", error=repr(error), exc_info=True)
        async with asyncio.TaskGroup() as tasks:
            for name, once, every_seconds, event in (
                ("edge.reconcile", reconcile, 5.0, wake),
                ("edge.settle", reconciler.settle, 5.0, reconciler.settles),
                ("edge.certificates", keep_certificates, 3600.0, hosts_changed),
                ("edge.link", lambda: apart(link.talk(), name="edge.link.talk"), 0.5, None),
                ("edge.access_log", access_log.read, 1.0, None),
                (
                    "edge.metrics",
                    lambda: serve_metrics(access_log, options.paths.directory / "metrics.sock"),
                    1.0,
                    None,
                ),
            ):
                tasks.create_task(
                    forever(name, once, every_seconds=every_seconds, wake=event, limit_seconds=5.0), name=name
                )
    finally:
        reconciler.close()


async def stop_proxy(options: EdgeOptions, *, grace_seconds: float = 10.0) -> None:
    """End HAProxy, requests under way first, and remove its runtime files. The edge must have ended before."""
    proxy = HAProxy(Path("haproxy"), options.paths, namespace=None, on_death=lambda: None)
    await proxy.stop(grace_seconds=grace_seconds)


def proxy_runs(options: EdgeOptions) -> bool:
    """Whether a HAProxy of this cloud serves, whoever started it."""
    return bool(HAProxy(Path("haproxy"), options.paths, namespace=None, on_death=lambda: None).find_processes())


def parse_options(arguments: Sequence[str] | None = None) -> EdgeOptions:
    """From `python -m shellwego.processes.edge --help`."""
    parser = argparse.ArgumentParser(prog="shellwego edge", description="Serve apps through HAProxy.")
    parser.add_argument("--data-dir", type=Path, required=True, help="where routes and certificates are kept")
    parser.add_argument("--run-dir", type=Path, required=True, help="the cloud's runtime directory, with control.sock")
    parser.add_argument("--domain", required=True, help="apps are served as NAME.DOMAIN")
    parser.add_argument("--address", default="0.0.0.0", help="address to listen on; :: is both families")  # noqa: S104
    parser.add_argument("--http-port", type=_port, default=80, help="0 turns plain HTTP off")
    parser.add_argument("--https-port", type=_port, default=443, help="0 turns HTTPS off")
    parser.add_argument("--namespace", type=Path, help="the data plane's network namespace, e.g. /run/netns/NAME")
    parser.add_argument("--haproxy", type=Path, default=Path("haproxy"), help="the program")
    parser.add_argument("--trusted-proxy", action="append", default=[], help="network whose X-Forwarded-For is kept")
    usual = Patience()
    parser.add_argument(
        "--headers-seconds",
        type=float,
        default=usual.headers_seconds,
        help="how long a client may take to send a request's headers",
    )
    parser.add_argument(
        "--silence-seconds",
        type=float,
        default=usual.silence_seconds,
        help="how long a client or an app may be silent in the middle of a request",
    )
    parser.add_argument("--name", default="edge", help="how this edge calls itself")
    given = parser.parse_args(arguments)
    return EdgeOptions(
        data_dir=given.data_dir.absolute(),
        run_dir=given.run_dir.absolute(),
        domain=given.domain,
        address=given.address,
        http_port=given.http_port,
        https_port=given.https_port,
        namespace=given.namespace,
        haproxy=given.haproxy,
        trusted_proxies=tuple(given.trusted_proxy),
        patience=Patience(given.headers_seconds, given.silence_seconds),
        name=given.name,
    )


async def _until_signalled(options: EdgeOptions) -> None:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await run_edge(options)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_options(arguments)
    begin("edge", options.data_dir / "logs")
    asyncio.run(_until_signalled(options))


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError("0 to 65535")
    return port


def _program(named: Path) -> Path:
    # A relative name stays as it is if nothing is found, so that the error names it.
    return Path(shutil.which(str(named)) or named)


def _proxy_user() -> tuple[str, str]:
    """Whom HAProxy becomes once it has read its files: a user that owns nothing. Itself, where we aren't root."""
    if os.geteuid() != 0:
        return "", ""
    for name in _USERS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return name, grp.getgrgid(entry.pw_gid).gr_name
    return "", ""


def _ensure_directories(options: EdgeOptions) -> None:
    (options.data_dir / "edge" / "certificates").mkdir(mode=0o700, parents=True, exist_ok=True)
    # HAProxy passes through here, as its own user, to the sockets of the log and of the API, each of which has its
    # own mode. Nobody may list them.
    options.paths.directory.mkdir(parents=True, exist_ok=True)
    for directory in (options.run_dir, options.paths.directory):
        directory.chmod(directory.stat().st_mode & 0o777 | 0o011)


def _let_proxy_reach(socket: Path, group: str) -> None:
    """HAProxy's group may connect to the API's socket, which asks for a token like its TCP twin."""
    if not group:
        return
    with contextlib.suppress(FileNotFoundError):
        gid, status = grp.getgrnam(group).gr_gid, socket.stat()
        if status.st_gid != gid or not status.st_mode & 0o020:
            os.chown(socket, -1, gid)
            socket.chmod(status.st_mode & 0o777 | 0o060)


async def _wait_for(namespace: Path | None) -> None:
    while namespace is not None and not namespace.exists():
        log.info("edge.waits_for_namespace", namespace=str(namespace))
        await asyncio.sleep(_NAMESPACE_SECONDS)


if __name__ == "__main__":
    main()
