"""Sessions: renewed by themselves, never lost to a race between two command lines, readable by nobody else."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from pathlib import Path

import httpx
import pytest
from tests.unit.client.fake_cloud import URL, FakeCloud

from shellwego.client import Cloud, LoginStore, SessionCredential, SessionLost
from shellwego.client.credentials import StoredLogin
from shellwego.client.transport import Transport
from shellwego.core.errors import Conflict

NOW = dt.datetime(2026, 1, 31, 12, 0, tzinfo=dt.UTC)


async def signed_in(fake: FakeCloud, path: Path, *, expires_in: float) -> LoginStore:
    session = fake.new_session()
    store = LoginStore(path)
    async with store.locked():
        store.save(
            StoredLogin(URL, "ann", access_token=session.access_token, refresh_token=session.refresh_token,
                        expires_at=NOW.timestamp() + expires_in),
            make_current=True,
        )  # fmt: skip
    return store


def cloud_of(fake: FakeCloud, store: LoginStore) -> Cloud:
    credential = SessionCredential(store, URL, clock=lambda: NOW)
    return Cloud(Transport(URL, credential, http=fake.transport(), patience_seconds=0))


async def test_a_fresh_session_is_used_as_it_is(tmp_path: Path) -> None:
    fake = FakeCloud()
    store = await signed_in(fake, tmp_path / "logins.json", expires_in=600)
    await cloud_of(fake, store).auth.me()
    assert [r.url.path for r in fake.requests] == ["/v1/auth/me"]


async def test_a_session_nearly_over_is_renewed_and_the_new_one_stored(tmp_path: Path) -> None:
    fake = FakeCloud()
    store = await signed_in(fake, tmp_path / "logins.json", expires_in=10)
    before = store.current()
    await cloud_of(fake, store).auth.me()
    after = store.current()
    assert before is not None
    assert after is not None
    assert after.refresh_token != before.refresh_token
    assert after.refresh_token in fake.refresh_tokens
    await cloud_of(fake, store).auth.me()
    assert [r.url.path for r in fake.requests].count("/v1/auth/refresh") == 1


async def test_many_command_lines_at_once_renew_once(tmp_path: Path) -> None:
    """The cloud ends the whole session when a refresh token comes twice: two terminals would sign each other out."""
    fake = FakeCloud()
    store = await signed_in(fake, tmp_path / "logins.json", expires_in=1)
    clouds = [cloud_of(fake, LoginStore(store.path)) for _ in range(8)]
    await asyncio.gather(*(cloud.auth.me() for cloud in clouds))
    assert [r.url.path for r in fake.requests].count("/v1/auth/refresh") == 1


async def test_a_token_refused_before_its_time_is_renewed_too(tmp_path: Path) -> None:
    """A server that lost its signing key, or a laptop whose clock is wrong."""
    fake = FakeCloud()
    store = await signed_in(fake, tmp_path / "logins.json", expires_in=600)
    fake.accepted_tokens.clear()
    await cloud_of(fake, store).auth.me()
    assert [r.url.path for r in fake.requests] == ["/v1/auth/me", "/v1/auth/refresh", "/v1/auth/me"]


async def test_a_dead_session_says_so_and_is_forgotten(tmp_path: Path) -> None:
    fake = FakeCloud()
    store = await signed_in(fake, tmp_path / "logins.json", expires_in=1)
    fake.refresh_tokens.clear()
    with pytest.raises(SessionLost):
        await cloud_of(fake, store).auth.me()
    assert store.current() is None


async def test_a_cloud_that_is_down_does_not_end_the_session(tmp_path: Path) -> None:
    fake = FakeCloud(faults=[_bad_gateway])
    store = await signed_in(fake, tmp_path / "logins.json", expires_in=1)
    with pytest.raises(Exception, match="502"):
        await cloud_of(fake, store).auth.me()
    assert store.current() is not None


async def test_nobody_else_can_read_the_file(tmp_path: Path) -> None:
    store = await signed_in(FakeCloud(), tmp_path / "config" / "logins.json", expires_in=1)
    assert store.path.stat().st_mode & 0o777 == 0o600
    assert store.path.parent.stat().st_mode & 0o777 == 0o700


async def test_a_damaged_file_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "logins.json"
    path.write_text("{")
    with pytest.raises(Conflict, match="Remove it and sign in again"):
        LoginStore(path).current()


async def test_fields_of_a_newer_version_are_no_error(tmp_path: Path) -> None:
    path = tmp_path / "logins.json"
    path.write_text(json.dumps({"current": URL, "clouds": {URL: {"token": "x", "passkey": 1}}}))
    found = LoginStore(path).current()
    assert found is not None
    assert found.token == "x"


def _bad_gateway(request: httpx.Request) -> httpx.Response:
    return httpx.Response(502)
