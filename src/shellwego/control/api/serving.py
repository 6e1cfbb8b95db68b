"""How does the API listen?

On TCP for whoever may reach the machine, and on a Unix socket for our own proxy, both inside the event loop that runs
the controllers too. One granian server per socket; HTTP/1.1 only, since the proxy speaks nothing else to us.
"""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import structlog
from fastapi import FastAPI
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server.embed import Server

from shellwego.core.errors import Unavailable

log = structlog.get_logger()

STOP_SECONDS = 5.0
"""So long a request may still take when we are asked to stop."""


async def serve(api: FastAPI, *, host: str, port: int, uds: Path | None = None) -> None:
    """
    Serve an application of `create_api` until cancelled; then end its streams (they would never end by themselves),
    take no more connections and let requests end. Raises Unavailable when a socket can't be had, or a server ended by
    itself.
    """
    stopping: asyncio.Event = api.state.parts.stopping
    _ensure_free(host, port)
    servers = [_server(api, address=host, port=port)]
    if uds is not None:
        uds.unlink(missing_ok=True)  # Left by a killed process; whoever holds this cloud's lock owns the place.
        servers.append(_server(api, uds=uds))
    try:
        async with asyncio.TaskGroup() as tasks:
            for server in servers:
                tasks.create_task(_run(server, stopping), name=f"serve {server.bind_uds or server.bind_addr}")
    except* Exception as errors:
        raise errors.exceptions[0] from None


async def _run(server: Server, stopping: asyncio.Event) -> None:
    running = asyncio.ensure_future(server.serve())
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        stopping.set()
        server.stop()  # type: ignore[no-untyped-call]
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await running
        except TimeoutError:
            log.warning("api.stopped_hard", seconds=STOP_SECONDS)
        raise
    raise Unavailable("The HTTP server", "it ended by itself.")


def _server(api: FastAPI, **where: Any) -> Server:
    return Server(
        api,
        interface=Interfaces.ASGINL,
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(max_buffer_size=64 * 1024, header_read_timeout=10_000),
        backlog=1024,
        log_enabled=False,
        **where,
    )


def _ensure_free(host: str, port: int) -> None:
    """Granian ends the process's thread with a traceback of its own when an address is taken; say so before."""
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as error:
        raise Unavailable("The API's address", f"{host}:{port}: {error.strerror}.") from error
