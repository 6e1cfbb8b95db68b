"""Uploads: whole or not at all."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os

import httpx
import pytest
from tests.integration.conftest import World
from tests.integration.test_problems import problem

GZIP = {"Content-Type": "application/gzip"}


@pytest.fixture
async def app(member):
    await member.post("/v1/apps", json={"name": "blog"})
    return "/v1/apps/blog/sources"


def files(world: World) -> list[str]:
    directory = world.parts.settings.sources
    return sorted(p.name for p in directory.iterdir()) if directory.exists() else []


async def test_a_source_is_stored_as_it_was_sent(world: World, member, app):
    async def packed():
        yield b"\x1f\x8b"
        for number in range(20):
            yield bytes([number]) * 100_000

    content = b"".join([piece async for piece in packed()])
    made = await member.post(app, content=packed(), headers=GZIP)
    assert made.status_code == 201, made.text
    source = made.json()
    assert (source["size_bytes"], source["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    path = world.parts.settings.sources / source["id"]
    assert path.read_bytes() == content
    assert path.stat().st_mode & 0o777 == 0o600
    deployed = await member.post("/v1/apps/blog/deployments", json={"source": source["id"], "build": {"target": "x"}})
    assert deployed.json()["source"] == source["id"]


async def test_what_is_refused_leaves_nothing(world: World, member, app):
    async def too_much():
        yield b"\x1f\x8b"
        for _ in range(40):
            yield bytes(100_000)

    problem(await member.post(app, content=too_much(), headers=GZIP), 413, "too_large")
    problem(await member.post(app, content=b"", headers=GZIP), 422, "invalid_field", "body")
    problem(await member.post(app, content=b"<html>" + bytes(1000), headers=GZIP), 422, "invalid_field", "body")
    problem(await member.post(app, content=b"\x1f\x8bxx"), 415, "unsupported_media_type")
    problem(await member.post(app.replace("blog", "none"), content=b"\x1f\x8bxx", headers=GZIP), 404, "not_found")
    assert files(world) == []


async def test_an_upload_that_breaks_off_leaves_nothing(world: World, member, app):
    """A laptop that is closed half way."""
    started = asyncio.Event()

    async def receive():
        if not started.is_set():
            started.set()
            return {"type": "http.request", "body": b"\x1f\x8b" + bytes(300_000), "more_body": True}
        return {"type": "http.disconnect"}

    async def send(_message):
        return None

    scope = {
        "type": "http",
        "method": "POST",
        "path": app,
        "raw_path": app.encode(),
        "query_string": b"",
        "headers": [
            (b"authorization", member.headers["authorization"].encode()),
            (b"content-type", GZIP["Content-Type"].encode()),
        ],
        "http_version": "1.1",
        "scheme": "http",
        "client": ("127.0.0.1", 1),
        "server": ("api.test", 80),
    }
    await world.api(scope, receive, send)
    assert started.is_set()
    assert files(world) == []


async def test_an_upload_that_stands_still_is_given_up(world: World, member, app, monkeypatch):
    object.__setattr__(world.parts.settings, "idle_upload_seconds", 0.05)

    async def stalled():
        yield b"\x1f\x8b" + bytes(1000)
        await asyncio.sleep(30)

    answer = await member.post(app, content=stalled(), headers=GZIP)
    problem(answer, 408, "request_timeout")
    assert files(world) == []


@pytest.mark.parametrize("call", ["os.write", "os.fsync", "Path.mkdir"])
@pytest.mark.parametrize(
    ("number", "status", "code"),
    [(errno.ENOSPC, 507, "disk_full"), (errno.EROFS, 503, "unavailable"), (errno.EIO, 503, "unavailable")],
)
async def test_a_disk_that_takes_nothing_is_told_and_nothing_is_left(
    world: World, member, app, monkeypatch, call, number, status, code
):
    def refuse(*_args, **_more):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(f"shellwego.control.api.sources.{call}", refuse)
    answer = await member.post(app, content=b"\x1f\x8bxx", headers=GZIP)
    monkeypatch.undo()
    problem(answer, status, code)
    assert files(world) == []


async def test_a_disk_that_fails_in_the_middle_is_told_although_nothing_can_be_removed_either(member, app, monkeypatch):
    def refuse(*_args, **_more):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("shellwego.control.api.sources.os.write", refuse)
    monkeypatch.setattr("shellwego.control.api.sources.Path.unlink", refuse)
    answer = await member.post(app, content=b"\x1f\x8bxx", headers=GZIP)
    monkeypatch.undo()
    problem(answer, 503, "unavailable")


async def test_a_stranger_is_refused_before_a_byte_is_taken(world: World, app):
    taken = []

    async def content():
        taken.append(1)
        yield b"\x1f\x8bxx"

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=world.api), base_url="http://t") as client:
        answer = await client.post(app, content=content(), headers=GZIP)
    assert answer.status_code == 401
    assert taken == []
