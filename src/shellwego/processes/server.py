"""What does the server process consist of?

The API, the door for agents and edges, and the controllers, each a loop with a name under one owner. All that it knows
is in the database: killed at any instruction, it starts again and goes on. Apps don't notice.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import secrets
import signal
import sys
from collections.abc import Awaitable, Callable, Collection, Sequence
from pathlib import Path

import msgspec
import structlog
import uvloop

from shellwego import __version__
from shellwego.control.api.create import create_api
from shellwego.control.api.parts import ApiParts, ApiSettings
from shellwego.control.api.serving import serve
from shellwego.control.controllers.assignments import AssignmentsController
from shellwego.control.controllers.builds import BuildPlaces, BuildsController, concern_builds
from shellwego.control.controllers.deployments import DeploymentsController
from shellwego.control.controllers.outbox import OutboxRelay
from shellwego.control.controllers.retention import EVERY_SECONDS as RETENTION_SECONDS
from shellwego.control.controllers.retention import Retention
from shellwego.control.controllers.routes import RoutesController
from shellwego.control.links.agents import AgentLinks
from shellwego.control.links.edges import EdgeLinks
from shellwego.control.links.listener import ControlListener
from shellwego.control.links.streams import Streams
from shellwego.control.services.cloud import FirstSecrets, ensure_cloud
from shellwego.control.services.passwords import Passwords
from shellwego.control.services.sealing import config_of
from shellwego.control.services.signing import SigningKey
from shellwego.control.store import NotDurable, Store, migrate
from shellwego.control.store.records import EventRecord, ImageMappingRecord
from shellwego.core.errors import DiskFull, ShellWeGoError, Unavailable
from shellwego.core.ids import CloudId
from shellwego.drivers.bus.memory import MemoryBus
from shellwego.drivers.images.builder import BuildKitBuilder
from shellwego.drivers.images.port import SETTLE_SECONDS
from shellwego.drivers.images.source import unpack_source
from shellwego.kit.backoff import backoff_seconds
from shellwego.kit.commands import CommandFailed
from shellwego.kit.files import replace_file
from shellwego.kit.supervise import forever
from shellwego.processes.child import begin
from shellwego.processes.cloud import Cloud, load_cloud
from shellwego.processes.engines_found import find_engines
from shellwego.processes.parts import build_limits, make_builder, make_images, make_kms

log = structlog.get_logger()

ROUND_SECONDS = 10.0
"""A controller looks again at the latest after this; events wake it at once."""
STALE_BUILDS_SECONDS = 15.0


async def run_server(cloud: Cloud) -> None:
    """Serve until cancelled. Waits for a database that is away; raises what can't be mended by waiting."""
    kms = make_kms(cloud)
    passwords = Passwords()
    store = Store(cloud.database_url)
    # First of all: who opens SQLite's file first makes the index of its log, and who closes it last removes both. On a
    # disk that is quite full others would take that room, and nothing could be read.
    await _patiently(cloud, store.version)
    await _patiently(cloud, lambda: migrate(cloud.database_url))
    await _patiently(cloud, lambda: _begin_cloud(cloud, store, passwords))

    wakes = {name: asyncio.Event() for name in ("deployments", "assignments", "routes", "builds", "outbox")}
    bus = MemoryBus()
    streams = Streams(new_stream_id=lambda: secrets.token_urlsafe(18))
    agents = AgentLinks(
        store,
        streams,
        cloud=cloud.identity.cloud,
        on_connect=lambda node: assignments.forget(node),
        on_heard=lambda instances: routes.heard(instances),
    )
    edges = EdgeLinks(store, cloud=cloud.identity.cloud)
    assignments = AssignmentsController(
        store,
        agents,
        wakes["assignments"],
        open_config=lambda release: config_of(kms, release),
        routes_in_force=lambda app: routes.are_in_force(app),
        extra_ca=cloud.extra_ca.read_text() if cloud.extra_ca.exists() else "",
    )
    deployments = DeploymentsController(store, wakes["deployments"])
    routes = RoutesController(store, edges, wakes["routes"], domain=cloud.identity.domain)

    def wake_all(events: Collection[EventRecord]) -> None:
        routes.notice(events)  # First: the others' rounds take longer, and requests depend on this one.
        deployments.notice(events)
        assignments.notice(events)
        if concern_builds(events):
            wakes["builds"].set()
        wakes["outbox"].set()

    store.on_commit(wake_all)
    settings = ApiSettings(
        domain=cloud.identity.domain,
        directory=cloud.server,
        version=__version__,
        http_port=cloud.identity.http_port,
        https_port=cloud.identity.https_port,
    )

    async def edge_check() -> str:
        reports = edges.reports
        if not reports:
            raise Unavailable("The edge", "none is connected.")
        serving = [name for name, report in reports.items() if report is not None and report.serving]
        if not serving:
            problems = [problem for report in reports.values() if report is not None for problem in report.problems]
            raise Unavailable("The edge", "; ".join(problems) or "it has not said yet that it serves.")
        return f"{len(serving)} serving"

    parts = ApiParts(
        store=store,
        kms=kms,
        bus=bus,
        agents=agents,
        signing=SigningKey.ensure(cloud.server / "signing.pem", issuer=cloud.identity.cloud),
        settings=settings,
        passwords=passwords,
        checks={"edge": edge_check},
    )
    images = make_images(cloud)
    builder = make_builder(cloud, find_engines(), images)
    listener = ControlListener(cloud.control_socket, on_agent=agents.serve, on_edge=edges.serve, streams=streams)
    relay = OutboxRelay(store, bus)
    retention = Retention(store, sources=settings.sources, builds=settings.builds)
    try:
        await _end_stale_builds(builder)
        async with asyncio.TaskGroup() as tasks:
            builds = BuildsController(
                store,
                kms,
                images=images,
                builder=builder,
                unpack=unpack_source,
                places=BuildPlaces(settings.sources, cloud.server / "work", settings.builds),
                tasks=tasks,
                limits=build_limits(cloud),
            )
            loops: tuple[tuple[str, Callable[[], Awaitable[None]], float, asyncio.Event | None], ...] = (
                ("deployments", deployments.once, ROUND_SECONDS, wakes["deployments"]),
                ("assignments", assignments.once, ROUND_SECONDS, wakes["assignments"]),
                ("routes", routes.once, ROUND_SECONDS, wakes["routes"]),
                ("builds", builds.once, ROUND_SECONDS, wakes["builds"]),
                ("outbox", relay.once, ROUND_SECONDS, wakes["outbox"]),
                ("retention", retention.once, RETENTION_SECONDS, None),
                ("settle", images.settle, SETTLE_SECONDS, None),
            )
            for name, once, every_seconds, wake in loops:
                tasks.create_task(
                    forever(name, once, every_seconds=every_seconds, wake=wake, limit_seconds=5.0), name=name
                )
            tasks.create_task(store.until_in_doubt(), name="durability")
            tasks.create_task(listener.serve(), name="control socket")
            host, port = cloud.identity.api_bind, cloud.identity.api_port
            tasks.create_task(serve(create_api(parts), host=host, port=port, uds=cloud.api_socket), name="api")
            log.info("server.started", version=__version__, cloud=cloud.identity.cloud)
    finally:
        parts.stopping.set()
        await builder.close()
        await store.close()


async def _end_stale_builds(builder: BuildKitBuilder) -> None:
    """
    The step of a killed server's build would go on, and what it printed stay, until somebody builds again. What can't
    be ended is tried again then: an app's way to its visitors waits for none of it.
    """
    try:
        async with asyncio.timeout(STALE_BUILDS_SECONDS):
            for lane in await builder.end_stale():
                log.info("builder.stale_ended", lane=lane)
    except (OSError, CommandFailed, ShellWeGoError) as error:  # TimeoutError is an OSError.
        log.warning("builder.stale_not_ended", error=repr(error))


async def _begin_cloud(cloud: Cloud, store: Store, passwords: Passwords) -> None:
    """
    The first start, or the first with a new database: an operator, their secrets, and the images that stand in for a
    hub's.
    """

    def keep(first: FirstSecrets) -> None:
        replace_file(cloud.admin_password, f"{first.email}\n{first.password}\n".encode())
        replace_file(cloud.admin_token, f"{first.token}\n".encode())

    async with store.reading() as work:
        if await work.cloud.find_it() is not None:
            return
    kept = _kept_secrets(cloud)
    if kept is not None:
        log.warning(
            "server.database_is_empty",
            cloud=cloud.identity.cloud,
            hint="This cloud had begun with another database. What runs goes on; put that database back "
            "(docs/how-to/back-up-and-restore.md), or go on with this one. The admin's token and first password hold.",
        )
    if cloud.first_mappings.exists():
        # Before the cloud has begun: what is cut off here is done again.
        mappings = msgspec.json.decode(cloud.first_mappings.read_bytes(), type=dict[str, str])
        async with store.writing() as work:
            for pattern, image in mappings.items():
                await work.image_mappings.put(ImageMappingRecord(pattern, image, work.now))
    identity = cloud.identity
    await ensure_cloud(
        store,
        id=CloudId(identity.cloud),
        domain=identity.domain,
        passwords=passwords,
        random_bytes=secrets.token_bytes,
        keep=keep,
        kept=kept,
    )


def _kept_secrets(cloud: Cloud) -> FirstSecrets | None:
    """What the admin was given when this cloud began, None when it never did, or they have taken it away."""
    try:
        email, password = cloud.admin_password.read_text().split()
        return FirstSecrets(email, password, cloud.admin_token.read_text().strip())
    except (FileNotFoundError, ValueError):
        return None


async def _patiently(cloud: Cloud, act: Callable[[], Awaitable[object]]) -> None:
    """
    Do it, again and again while the database is away or its disk full: a server that starts before its database must
    not give up. Nobody can ask us yet, so why we wait is written where `up` and `doctor` look.
    """
    attempt = 0
    while True:
        try:
            await act()
            cloud.server_waits.unlink(missing_ok=True)
            return
        except (Unavailable, DiskFull) as error:
            attempt += 1
            wait = backoff_seconds(attempt, limit=10)
            log.warning("server.waits", why=str(error), next_try_seconds=wait)
            cloud.server_waits.write_text(str(error))
            await asyncio.sleep(wait)


async def _until_signalled(cloud: Cloud) -> None:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await run_server(cloud)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="shellwego server", description="Run a cloud's API and controllers.")
    parser.add_argument("--data-dir", type=Path, required=True, help="the cloud's directory")
    cloud = load_cloud(parser.parse_args(arguments).data_dir)
    begin("server", cloud.logs)
    try:
        uvloop.run(_until_signalled(cloud))
    except* NotDurable as errors:
        log.critical("server.not_durable", error=str(errors.exceptions[0]))
        sys.exit(f"shellwego server: The database: {errors.exceptions[0]}")


if __name__ == "__main__":
    main()
