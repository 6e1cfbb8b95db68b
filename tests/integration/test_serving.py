"""The API on real sockets: TCP and Unix, uploads with backpressure, a graceful stop."""

from __future__ import annotations

import asyncio
import contextlib
import time

import httpx
import pytest
from tests.integration.conftest import World
from tests.integration.test_deployment_events import token_of
from tests.integration.wire import Wire

from shellwego.control.api import serve
from shellwego.core.errors import Unavailable


@pytest.fixture
def database_url(sqlite_template, tmp_path):
    """Sockets don't care for the database."""
    import shutil

    from shellwego.control.store.engine import sqlite_url

    return sqlite_url(shutil.copy(sqlite_template, tmp_path / "store.db"))


async def test_it_listens_on_tcp_and_on_a_unix_socket_at_once(world: World, tmp_path):
    uds = tmp_path / "api.sock"
    uds.touch()  # As a killed server leaves it.
    async with Wire(world.api, uds=uds) as wire:
        assert (await wire.client.get("/health")).status_code == 200
        transport = httpx.AsyncHTTPTransport(uds=str(uds))
        async with httpx.AsyncClient(transport=transport, base_url="http://cloud") as client:
            assert (await client.get("/health")).json()["ok"] is True
            # Through the proxy, what only this machine may see needs an operator.
            assert (await client.get("/metrics")).status_code == 401
            bearer = {"Authorization": f"Bearer {world.first.token}"}
            metrics = (await client.get("/metrics", headers=bearer)).text
            assert 'shellwego_api_requests_total{method="GET",route="/health",status="200"}' in metrics
        assert (await wire.client.get("/metrics")).status_code == 200
    assert not uds.exists()


async def test_a_stop_lets_requests_end_and_cuts_streams(world: World, member):
    await member.post("/v1/apps", json={"name": "blog"})
    made = (await member.post("/v1/apps/blog/deployments", json={"image": "x"})).json()
    async with Wire(world.api) as wire:
        headers = {"Authorization": f"Bearer {token_of(member)}"}
        url = f"/v1/apps/blog/deployments/{made['id']}/events"
        async with wire.client.stream("GET", url, headers=headers) as watching:
            pieces = watching.aiter_text()
            await anext(pieces)
            login = {"email": world.first.email, "password": world.first.password}
            slow = asyncio.ensure_future(wire.client.post("/v1/auth/login", json=login))
            await asyncio.sleep(0)
            began = time.monotonic()
            await wire.stop()
            with contextlib.suppress(httpx.TransportError):
                async for _ in pieces:
                    pass
        with contextlib.suppress(httpx.TransportError):
            assert (await slow).status_code == 200
        assert time.monotonic() - began < 4, "a stop waited for a stream"


async def test_a_taken_address_is_told(world: World):
    async with Wire(world.api) as wire:
        with pytest.raises(Unavailable, match="Address already in use"):
            await serve(world.api, host="127.0.0.1", port=wire.port)


async def test_a_client_that_leaves_in_the_middle_of_an_upload_leaves_nothing(world: World, member):
    await member.post("/v1/apps", json={"name": "blog"})
    async with Wire(world.api) as wire:
        reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
        head = (
            f"POST /v1/apps/blog/sources HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token_of(member)}\r\n"
            f"Content-Type: application/gzip\r\nContent-Length: 1000000\r\n\r\n"
        )
        writer.write(head.encode() + b"\x1f\x8b" + bytes(300_000))
        await writer.drain()
        directory = world.parts.settings.sources
        async with asyncio.timeout(10):
            while not (directory.exists() and list(directory.iterdir())):  # noqa: ASYNC110 - files ring no bell
                await asyncio.sleep(0.01)
            writer.close()
            while list(directory.iterdir()):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        del reader


async def test_a_body_that_is_half_closed_is_refused_and_leaves_nothing(world: World, member):
    """A client that says "that's all" before it has sent what it announced: by length, and in chunks."""
    await member.post("/v1/apps", json={"name": "blog"})
    directory = world.parts.settings.sources
    bodies = (("/v1/apps/blog/sources", b"gzip", b"\x1f\x8b" + bytes(100_000)), ("/v1/apps", b"json", b'{"name": "x"'))
    async with Wire(world.api) as wire:
        for path, kind, body in bodies:
            for announced in (
                b"Content-Length: 1000000\r\n\r\n" + body,
                b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(body), body),
                b"Transfer-Encoding: chunked\r\n\r\nfffff\r\n" + body,
            ):
                reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
                head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token_of(member)}\r\n"
                writer.write(head.encode() + b"Content-Type: application/" + kind + b"\r\n" + announced)
                writer.write_eof()
                async with asyncio.timeout(20):
                    answer = await reader.read()
                    assert answer.startswith(b"HTTP/1.1 400 "), answer
                    assert b"ended before all of it had come" in answer
                    while directory.exists() and list(directory.iterdir()):  # noqa: ASYNC110 - files ring no bell
                        await asyncio.sleep(0.01)
                writer.close()
        async with world.store.reading() as work:
            assert await work.for_the_cloud().sources.paths() == frozenset()
            assert await work.for_the_cloud().apps.count() == 1
