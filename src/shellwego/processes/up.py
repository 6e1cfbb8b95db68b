"""How does one command become a cloud?

`shellwego up` runs server, agent and edge of a one-node cloud under one supervisor. Nothing of the cloud lives in this
process: killed, it takes only the three processes with it, apps and proxy go on, and the next `up` picks everything up.
Ctrl-C is the one thing that ends the apps too; what they stored and what was deployed stays in the data directory.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import httpx
import structlog
import typer

from shellwego.core.networks import parse_allowed_network, parse_trusted_proxy
from shellwego.core.quantities import parse_size_mib
from shellwego.drivers.images.addresses import is_loopback_name
from shellwego.kit.ports import outgoing_ports
from shellwego.observability.logs import set_up_logging
from shellwego.processes.authorities import ensure_authorities
from shellwego.processes.base_images import ensure_base_images
from shellwego.processes.cloud import Cloud, ensure_cloud, load_cloud
from shellwego.processes.engines_found import Engines, find_engines
from shellwego.processes.host_command import DEFAULT_DATA, DataDir, need_root, only_one, told
from shellwego.processes.ports import check_ports, ports_at_risk
from shellwego.processes.supervisor import Child, Supervisor
from shellwego.processes.teardown import remove_all, stop_all

log = structlog.get_logger()

READY_SECONDS = 120.0


def up(
    data_dir: DataDir = DEFAULT_DATA,
    domain: Annotated[
        str | None, typer.Option(help="Apps answer at NAME.DOMAIN. Fixed at the first start; `localhost` by default.")
    ] = None,
    bind: Annotated[
        str | None, typer.Option(help="Address of the proxy: 127.0.0.1 at first, 0.0.0.0 to serve the world.")
    ] = None,
    api_bind: Annotated[
        str | None,
        typer.Option(help="Address of the API's own port, which speaks plain HTTP. 127.0.0.1 at first; leave it so."),
    ] = None,
    api_port: Annotated[int | None, typer.Option(help="Port of the API. 7080 at first.", min=1, max=65535)] = None,
    http_port: Annotated[int | None, typer.Option(help="Port of the proxy. 80 at first.", min=1, max=65535)] = None,
    https_port: Annotated[int | None, typer.Option(help="TLS port. 443 at first.", min=1, max=65535)] = None,
    database_url: Annotated[
        str | None,
        typer.Option(envvar="SHELLWEGO_DATABASE_URL", help="postgresql+asyncpg://... instead of the embedded SQLite."),
    ] = None,
    extra_ca: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="PEM certificates that builds and instances shall trust too."),
    ] = None,
    insecure_registry: Annotated[
        list[str] | None, typer.Option(help="HOST:PORT of a registry to use over plain HTTP. Repeatable.")
    ] = None,
    allow_network: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NETWORK[:PORTS]",
            help="Let apps and builds reach this private network, as 10.0.5.7:5432. Repeatable; `none` closes all.",
        ),
    ] = None,
    trusted_proxy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NETWORK",
            help="Believe the X-Forwarded headers of a load balancer or CDN there. Repeatable; `none` believes nobody.",
        ),
    ] = None,
    build_timeout: Annotated[
        int | None, typer.Option(metavar="SECONDS", help="The longest that a build may take. 1800 at first.", min=1)
    ] = None,
    build_memory: Annotated[str | None, typer.Option(metavar="SIZE", help="Memory of a build. 2g at first.")] = None,
    build_disk: Annotated[str | None, typer.Option(metavar="SIZE", help="Disk of a build. 10g at first.")] = None,
    build_cache: Annotated[
        str | None, typer.Option(metavar="SIZE", help="What is kept between an organisation's builds. 5g at first.")
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the log as well.")] = False,
) -> None:
    """
    Run a one-node cloud on this machine until Ctrl-C.

    Options given once are remembered in the data directory for the next start.

    Example: shellwego up --domain apps.example.org --bind 0.0.0.0
    """
    need_root("`shellwego up` makes network namespaces and sandboxes")
    with told("shellwego up", of_disk=f". `shellwego doctor --data-dir {data_dir}` tells more."):
        cloud = ensure_cloud(
            data_dir,
            domain=domain,
            bind=bind,
            api_bind=api_bind,
            api_port=api_port,
            http_port=http_port,
            https_port=https_port,
            database_url=database_url,
            extra_ca=str(extra_ca.resolve()) if extra_ca else None,
            insecure_registries=insecure_registry,
            allowed_networks=_each(allow_network, parse_allowed_network, "--allow-network"),
            trusted_proxies=_each(trusted_proxy, parse_trusted_proxy, "--trusted-proxy"),
            build_seconds=build_timeout,
            build_memory_mib=_size(build_memory, "--build-memory", minimum_mib=256),
            build_disk_mib=_size(build_disk, "--build-disk", minimum_mib=64),
            build_cache_mib=_size(build_cache, "--build-cache", minimum_mib=16),
        )
        with only_one(cloud):
            engines = find_engines()
            check_ports(cloud, engines)
            ensure_authorities(cloud)
            set_up_logging("up", cloud.logs, verbose=verbose)
            code = asyncio.run(_run(cloud, engines))
    raise typer.Exit(code)


def down(data_dir: DataDir = DEFAULT_DATA) -> None:
    """
    Stop the apps and the proxy of a cloud whose `up` was killed. Data, releases and configuration stay.

    Example: shellwego down --data-dir /var/lib/shellwego
    """
    need_root("Stopping sandboxes")
    cloud = _load(data_dir)
    with told(), only_one(cloud):
        asyncio.run(stop_all(cloud, find_engines()))
    typer.echo("Everything is stopped. `shellwego up` starts it again.", err=True)


def uninstall(
    data_dir: DataDir = DEFAULT_DATA,
    keep_data: Annotated[bool, typer.Option(help="Leave the data directory: only stop and clean the host.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
) -> None:
    """
    Stop a cloud and remove all that it holds on this machine, its data included.

    Example: shellwego uninstall --data-dir /var/lib/shellwego
    """
    need_root("Removing a cloud")
    cloud = _load(data_dir)
    if not keep_data and not yes:
        typer.echo(f"This removes every app, release and file of the cloud in {cloud.data}.", err=True)
        if typer.prompt(f"Type its domain ({cloud.identity.domain}) to go on", err=True) != cloud.identity.domain:
            typer.echo("That is not its domain. Nothing was removed.", err=True)
            raise typer.Exit(1)
    with told(), only_one(cloud):
        asyncio.run(remove_all(cloud, find_engines(), keep_data=keep_data))
    typer.echo("Nothing of the cloud is left on this machine." if not keep_data else "The host is clean.", err=True)


async def _run(cloud: Cloud, engines: Engines) -> int:
    """Run until a signal; 0 after a clean stop, 1 when the cloud doesn't come up."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    children = _children(cloud, engines)
    supervisor = Supervisor(
        cloud.logs,
        on_end=lambda name, status: _say(
            f"The {name} ended (status {status}) and is started again. Its last words: {cloud.logs / name}.out"
        ),
        longest_wait_seconds=float(os.environ.get("SHELLWEGO_LONGEST_RESTART_SECONDS", "10")),
    )
    # Before the server starts: it ends every build that it didn't start itself.
    preparing = asyncio.ensure_future(ensure_base_images(cloud, engines, say=_say))
    giving_up = asyncio.ensure_future(stop.wait())
    await asyncio.wait({preparing, giving_up}, return_when=asyncio.FIRST_COMPLETED)
    giving_up.cancel()
    if not preparing.done():
        preparing.cancel()
        await asyncio.wait({preparing})
        return 0
    preparing.result()
    for warning in ports_at_risk(cloud.identity, outgoing_ports()):
        _say(warning)
    _say(f"Starting the cloud in {cloud.data} ...")
    came_up = False
    async with asyncio.TaskGroup() as tasks:
        for child in children:
            tasks.create_task(supervisor.keep_running(child), name=child.name)
        ready = tasks.create_task(_wait_until_ready(cloud, stop), name="ready")
        try:
            came_up = await ready
            if came_up:
                _say(welcome(cloud), err=False)
                await stop.wait()
                _say("\nStopping. Press Ctrl-C again to leave the apps running.")
                stop.clear()
        finally:
            for child in children:
                await supervisor.stop(child)
    if not came_up and not stop.is_set():
        _say(f"The cloud did not come up within {READY_SECONDS:g} s. See {cloud.logs}.")
        return 1
    stopping = asyncio.ensure_future(stop_all(cloud, engines))
    again = asyncio.ensure_future(stop.wait())
    await asyncio.wait({stopping, again}, return_when=asyncio.FIRST_COMPLETED)
    again.cancel()
    if not stopping.done():
        stopping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await stopping
        _say("Left as it is. `shellwego down` stops the rest; `shellwego up` goes on with it.")
        return 0
    await stopping
    _say("Stopped.")
    return 0


def _children(cloud: Cloud, engines: Engines) -> tuple[Child, ...]:
    def module(name: str) -> tuple[str, ...]:
        return (sys.executable, "-m", "shellwego.processes.main", name, "--data-dir", str(cloud.data))

    identity = cloud.identity
    edge = (
        *module("edge"),
        *("--run-dir", str(cloud.run), "--domain", identity.domain, "--address", identity.bind),
        *("--http-port", str(identity.http_port), "--https-port", str(identity.https_port)),
        *("--namespace", str(cloud.namespace), "--haproxy", str(engines.haproxy)),
    )
    return Child("server", module("server")), Child("agent", module("agent")), Child("edge", edge)


async def _wait_until_ready(cloud: Cloud, stop: asyncio.Event) -> bool:
    """Ask the API's health until it is well. False when time runs out or the operator gives up."""
    deadline = asyncio.get_running_loop().time() + READY_SECONDS
    said = ""
    async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(cloud.api_socket)), timeout=5) as client:
        while asyncio.get_running_loop().time() < deadline and not stop.is_set():
            try:
                answer = await client.get("http://cloud/health")
                if answer.status_code == 200:
                    return True
                waiting = ", ".join(part["name"] for part in answer.json()["parts"] if not part["ok"])
            except (httpx.HTTPError, ValueError, KeyError):
                waiting = "server"
                with contextlib.suppress(OSError):
                    waiting += f" ({cloud.server_waits.read_text()})"
                    # What is waited for passes by itself, however long it takes: giving up would only leave it undone.
                    deadline = asyncio.get_running_loop().time() + READY_SECONDS
            if waiting != said:
                _say(f"  waiting for: {waiting}")
                said = waiting
            await asyncio.sleep(0.1)
    return False


def welcome(cloud: Cloud) -> str:
    """What the operator reads once the cloud is up."""
    # What is printed must work as it is: in a checkout the command is not on the PATH.
    own = Path(sys.executable).parent / "shellwego"
    command = "shellwego" if shutil.which("shellwego") or not own.exists() else str(own)
    source = "examples/flask" if Path("examples/flask").is_dir() else "./my-app"
    outside = ""
    if not is_loopback_name(cloud.identity.bind):
        outside = f"\n  From outside {cloud.outside_api_url}   (trust {cloud.edge / 'ca.pem'})"
    if not is_loopback_name(cloud.identity.api_bind):
        outside += (
            f"\n\nWARNING: port {cloud.identity.api_port} on {cloud.identity.api_bind} speaks plain HTTP: "
            f"whoever sees the traffic has the tokens.\nUse {cloud.outside_api_url}, and start with "
            "--api-bind 127.0.0.1."
        )
    return f"""
ShellWeGo is up.

  API        {cloud.api_url}   (documentation at /docs)
  Apps       {cloud.app_url("NAME")}
  Admin      token in {cloud.admin_token}, password in {cloud.admin_password}{outside}

Next, in another terminal:

  export SHELLWEGO_URL={cloud.api_url} SHELLWEGO_TOKEN="$(cat {cloud.admin_token})"
  {command} deploy {source} --name hello
  curl {cloud.app_url("hello")}

Ctrl-C stops everything; what was deployed comes back with the next `shellwego up`."""


def _say(words: str, *, err: bool = True) -> None:
    """What is said may go into a file on a disk that is full, which is no reason to let go of a cloud."""
    with contextlib.suppress(OSError):
        typer.echo(words, err=err)


def _each(given: list[str] | None, parse: Callable[..., object], option: str) -> list[str] | None:
    """As they are kept, each read once so that a slip is told at once. None leaves what was given before."""
    if given is None or given == ["none"]:
        return None if given is None else []
    return [str(parse(text, field=option)) for text in given]


def _size(text: str | None, option: str, *, minimum_mib: int) -> int | None:
    return None if text is None else parse_size_mib(text, field=option, minimum_mib=minimum_mib)


def _load(data_dir: Path) -> Cloud:
    with told():
        return load_cloud(data_dir.resolve())
