"""
The API on a database of many apps, or a bare FastAPI hello on the same server: `python -m benches.api_server KIND DIR
PORT APPS`. It says "ready" and the operator's token when it listens. A process of its own, since wrk must not share it.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
from pathlib import Path
from types import SimpleNamespace

import sqlalchemy as sa
import uvloop
from fastapi import FastAPI

from shellwego.control.api import ApiParts, ApiSettings, create_api
from shellwego.control.api.serving import serve
from shellwego.control.services.cloud import FirstSecrets, ensure_cloud
from shellwego.control.services.passwords import Passwords
from shellwego.control.services.signing import SigningKey
from shellwego.control.store import Store, migrate, tables
from shellwego.control.store.engine import sqlite_url
from shellwego.core.ids import CloudId, NodeId, new_id
from shellwego.drivers.bus.memory import MemoryBus
from shellwego.drivers.kms.local_key import LocalKey
from shellwego.kit.clock import utc_now


class NoAgents:
    """Nobody runs anything here."""

    connected: frozenset[NodeId] = frozenset()


async def hello(port: int) -> None:
    api = FastAPI()
    api.state.parts = SimpleNamespace(stopping=asyncio.Event())

    @api.get("/hello")
    async def say() -> dict[str, str]:
        return {"hello": "world"}

    print("ready -", flush=True)
    await serve(api, host="127.0.0.1", port=port)


async def cloud(directory: Path, port: int, count: int) -> None:
    url = sqlite_url(directory / "store.db")
    await migrate(url)
    store = Store(url)
    first: list[FirstSecrets] = []
    await ensure_cloud(
        store,
        id=CloudId(new_id("cloud", secrets.token_bytes)),
        domain="bench.test",
        passwords=Passwords(),
        random_bytes=secrets.token_bytes,
        keep=first.append,
    )
    await _fill(store, count)
    parts = ApiParts(
        store=store,
        kms=LocalKey.ensure(directory / "secret.key"),
        bus=MemoryBus(),
        agents=NoAgents(),  # type: ignore[arg-type]
        signing=SigningKey.ensure(directory / "signing.pem", issuer="bench"),
        settings=ApiSettings(domain="bench.test", directory=directory, version="bench"),
    )
    print(f"ready {first[0].token}", flush=True)
    await serve(create_api(parts), host="127.0.0.1", port=port)


async def _fill(store: Store, count: int) -> None:
    """Apps as they are after a deployment each: with a process type of two instances."""
    async with store.writing() as work:
        execute = work.nodes._execute
        organisation = (await execute(sa.select(tables.organisations.c.id))).scalar_one()
        moment = utc_now()
        apps = [
            {
                "id": new_id("app", secrets.token_bytes),
                "organisation": organisation,
                "name": f"bench-{number:05d}",
                "stopped": False,
                "created_at": moment,
                "updated_at": moment,
                "next_release_number": 1,
            }
            for number in range(count)
        ]
        processes = [{"organisation": organisation, "app": a["id"], "process": "web", "replicas": 2} for a in apps]
        for begin in range(0, count, 500):  # A statement has a limit of values.
            await execute(sa.insert(tables.apps).values(apps[begin : begin + 500]))
            await execute(sa.insert(tables.app_processes).values(processes[begin : begin + 500]))


if __name__ == "__main__":
    kind, where, port, count = sys.argv[1:5]
    if kind == "hello":
        uvloop.run(hello(int(port)))
    else:
        uvloop.run(cloud(Path(where), int(port), int(count)))
