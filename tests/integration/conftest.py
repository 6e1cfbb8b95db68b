"""Every integration test runs twice: on SQLite and on a real PostgreSQL, both migrated by Alembic."""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
import secrets
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from tests.integration.agents import FakeAgents
from tests.integration.postgres import Postgres
from tests.openapi import Checked

from shellwego.control.api import ApiParts, ApiSettings, create_api
from shellwego.control.services.cloud import FirstSecrets, ensure_cloud
from shellwego.control.services.passwords import Passwords
from shellwego.control.services.signing import SigningKey
from shellwego.control.store import Store, migrate
from shellwego.control.store.engine import sqlite_url
from shellwego.core.ids import CloudId, NodeId, new_id
from shellwego.drivers.bus.memory import MemoryBus
from shellwego.drivers.bus.port import BusMessage
from shellwego.drivers.kms.fake import FakeKms

_numbers = itertools.count()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    server = Postgres()
    server.sql("CREATE DATABASE template_swg")
    asyncio.run(migrate(server.url("template_swg")))
    yield server
    server.close()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "store.db"
    asyncio.run(migrate(sqlite_url(path)))
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A fresh, migrated database."""
    if request.param == "sqlite":
        path = shutil.copy(request.getfixturevalue("sqlite_template"), tmp_path / "store.db")
        yield sqlite_url(path)
        return
    server: Postgres = request.getfixturevalue("postgres_server")
    name = f"test_{next(_numbers)}"
    server.sql(f"CREATE DATABASE {name} TEMPLATE template_swg")
    yield server.url(name)
    server.sql(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    store = Store(database_url)
    yield store
    await store.close()


@dataclass
class Now:
    """A clock that tests move. Like a real one, it never shows the same moment twice: the order of rows hangs on it."""

    at: dt.datetime = field(default_factory=lambda: dt.datetime.now(dt.UTC))

    def __call__(self) -> dt.datetime:
        self.at += dt.timedelta(microseconds=1)
        return self.at

    def forward(self, **amount: float) -> None:
        self.at += dt.timedelta(**amount)


@dataclass
class World:
    """A cloud's API in this process, with what a test needs to look behind it."""

    api: FastAPI
    parts: ApiParts
    store: Store
    kms: FakeKms
    bus: MemoryBus
    agents: FakeAgents
    now: Now
    cloud: CloudId
    first: FirstSecrets
    url: str

    def client(self, token: str | None = None, **options: Any) -> httpx.AsyncClient:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return httpx.AsyncClient(
            transport=Checked.around(self.api, **options), base_url="http://api.test", headers=headers, timeout=30
        )

    async def new_user(self, name: str) -> str:
        """An API token of a fresh user in a fresh organisation of that name."""
        async with self.client(self.first.token) as admin:
            (await admin.post("/v1/organisations", json={"name": name})).raise_for_status()
            email, password = f"user@{name}.test", secrets.token_hex(16)
            body = {"email": email, "password": password, "organisation": name}
            (await admin.post("/v1/users", json=body)).raise_for_status()
            session = (await admin.post("/v1/auth/login", json={"email": email, "password": password})).json()
            bearer = {"Authorization": f"Bearer {session['access_token']}"}
            made = await admin.post("/v1/tokens", json={"name": "t"}, headers=bearer)
            secret: str = made.json()["secret"]
            return secret


@pytest.fixture
async def world(database_url: str, tmp_path: Path) -> AsyncIterator[World]:
    now, kms, bus, agents = Now(), FakeKms(), MemoryBus(), FakeAgents()
    store = Store(database_url, clock=now)
    cloud = CloudId(new_id("cloud", secrets.token_bytes))
    passwords = Passwords(memory_kib=64, rounds=1)
    kept: list[FirstSecrets] = []
    await ensure_cloud(
        store,
        id=cloud,
        domain="cloud.test",
        passwords=passwords,
        random_bytes=secrets.token_bytes,
        keep=kept.append,
    )
    store.on_commit(lambda events: _publish(bus, events))
    agents.connected = {NodeId(new_id("node", secrets.token_bytes))}
    parts = ApiParts(
        store=store,
        kms=kms,
        bus=bus,
        agents=agents,
        signing=SigningKey.ensure(_signing_key(tmp_path), issuer=cloud),
        settings=ApiSettings(
            domain="cloud.test",
            directory=tmp_path / "server",
            version="0.0.test",
            maximum_source_bytes=3_000_000,
            heartbeat_seconds=0.2,
        ),
        passwords=passwords,
        clock=now,
    )
    yield World(create_api(parts), parts, store, kms, bus, agents, now, cloud, kept[0], database_url)
    parts.stopping.set()
    await store.close()


@pytest.fixture
async def admin(world: World) -> AsyncIterator[httpx.AsyncClient]:
    async with world.client(world.first.token) as client:
        yield client


@pytest.fixture
async def member(world: World) -> AsyncIterator[httpx.AsyncClient]:
    async with world.client(await world.new_user("acme")) as client:
        yield client


def _publish(bus: MemoryBus, events: Any) -> None:
    for event in events:
        message = BusMessage(event.kind, event.subject, event.payload, event.organisation, event.seq)
        for subscription in bus._subscriptions:
            subscription.offer(message)


_key_cache: list[bytes] = []


def _signing_key(directory: Path) -> Path:
    """One key for all tests: making one takes a second of this machine."""
    path = directory / "signing.pem"
    if _key_cache:
        path.write_bytes(_key_cache[0])
        path.chmod(0o600)
    else:
        SigningKey.ensure(path, issuer="x")
        _key_cache.append(path.read_bytes())
    return path
