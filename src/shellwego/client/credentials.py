"""With what does a client prove who it is, and where is that kept?

A token (an API token, `SHELLWEGO_TOKEN`) is sent as it is. A session is a short-lived access token and a refresh token
that works once; the cloud ends the whole session if it sees one twice. So renewing is done by one process at a time,
under a lock beside the file, and whoever waited for the lock takes what the other has stored instead of renewing again.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import platformdirs

from shellwego.client.errors import SessionLost
from shellwego.core.errors import Conflict, Unauthenticated
from shellwego.kit.clock import Clock, utc_now
from shellwego.kit.files import replace_file
from shellwego.protocol import public

RENEW_BEFORE_SECONDS = 30.0
"""An access token this close to its end is renewed first: a clock a little off must not cost a request."""
LOCK_SECONDS = 30.0

Renew = Callable[[str], Awaitable[public.Session]]
"""Trades a refresh token for a new session. Raises Unauthenticated when it is no longer good."""


class Credential(Protocol):
    async def token(self, renew: Renew) -> str | None:
        """What to send as a bearer token; None for nothing."""

    async def after_rejection(self, rejected: str, renew: Renew) -> str | None:
        """Another token to try after a 401 for `rejected`; None if there is no other."""


@dataclass(frozen=True, slots=True)
class TokenCredential:
    """An API token, or nothing at all."""

    value: str | None = None

    async def token(self, renew: Renew) -> str | None:
        return self.value

    async def after_rejection(self, rejected: str, renew: Renew) -> str | None:
        return None


@dataclass(frozen=True, slots=True)
class StoredLogin:
    """What is remembered of one cloud: a session or a token."""

    url: str
    who: str = ""
    token: str = ""
    access_token: str = ""
    refresh_token: str = ""
    expires_at: float = 0.0
    ca: str | None = None

    @property
    def is_session(self) -> bool:
        return bool(self.refresh_token)


class LoginStore:
    """
    The user's logins: a JSON file of mode 0600 in a directory of mode 0700, replaced atomically under a lock.

    Raises Conflict when somebody else holds the lock for too long, or the file can't be read.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or default_login_path()

    def current(self) -> StoredLogin | None:
        logins = self._load()
        return self._login(logins, logins.get("current", ""))

    def find(self, url: str) -> StoredLogin | None:
        return self._login(self._load(), url)

    @contextlib.asynccontextmanager
    async def locked(self) -> AsyncIterator[None]:
        """Hold the store against other processes. Only the renewal of a session holds it over a request."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            await _flock(descriptor, self.path)
            yield
        finally:
            os.close(descriptor)  # which also lets go of the lock

    def save(self, login: StoredLogin, *, make_current: bool = False) -> None:
        """Within `locked`."""
        logins = self._load()
        said = {name: getattr(login, name) for name in StoredLogin.__slots__ if name != "url"}
        logins.setdefault("clouds", {})[login.url] = {name: value for name, value in said.items() if value}
        if make_current:
            logins["current"] = login.url
        replace_file(self.path, json.dumps(logins, indent=1).encode())

    def forget(self, url: str) -> None:
        """Within `locked`."""
        logins = self._load()
        logins.get("clouds", {}).pop(url, None)
        if logins.get("current") == url:
            logins["current"] = next(iter(logins.get("clouds", {})), "")
        replace_file(self.path, json.dumps(logins, indent=1).encode())

    def _load(self) -> dict[str, Any]:
        try:
            logins = json.loads(self.path.read_bytes())
        except FileNotFoundError:
            return {}
        except (ValueError, OSError) as error:
            raise Conflict(f"{self.path} can't be read ({error}). Remove it and sign in again.") from error
        return logins if isinstance(logins, dict) else {}

    @staticmethod
    def _login(logins: dict[str, Any], url: str) -> StoredLogin | None:
        said = logins.get("clouds", {}).get(url)
        if not isinstance(said, dict):
            return None
        return StoredLogin(url, **{name: value for name, value in said.items() if name in StoredLogin.__slots__})


@dataclass(slots=True)
class SessionCredential:
    """The stored session of one cloud, renewed when it is nearly over."""

    store: LoginStore
    url: str
    clock: Clock = utc_now

    async def token(self, renew: Renew) -> str | None:
        login = self._login()
        if login.token:
            return login.token
        if self._is_fresh(login):
            return login.access_token
        return await self._renewed(login.access_token, renew)

    async def after_rejection(self, rejected: str, renew: Renew) -> str | None:
        return await self._renewed(rejected, renew) if self._login().is_session else None

    async def _renewed(self, old_access_token: str, renew: Renew) -> str:
        async with self.store.locked():
            login = self._login()
            if login.access_token != old_access_token and self._is_fresh(login):
                return login.access_token  # Another process has renewed it while we waited.
            try:
                session = await renew(login.refresh_token)
            except Unauthenticated:
                self.store.forget(self.url)
                raise SessionLost(self.url) from None
            self.store.save(from_session(login, session, self.clock))
            return session.access_token

    def _login(self) -> StoredLogin:
        login = self.store.find(self.url)
        if login is None:
            raise SessionLost(self.url)
        return login

    def _is_fresh(self, login: StoredLogin) -> bool:
        return login.expires_at - self.clock().timestamp() > RENEW_BEFORE_SECONDS


def from_session(login: StoredLogin, session: public.Session, clock: Clock) -> StoredLogin:
    return replace(
        login,
        access_token=session.access_token,
        refresh_token=session.refresh_token,
        expires_at=clock().timestamp() + session.expires_in_seconds,
    )


def default_login_path() -> Path:
    return Path(platformdirs.user_config_dir("shellwego")) / "logins.json"


async def _flock(descriptor: int, path: Path) -> None:
    for wait in _waits(LOCK_SECONDS):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            await asyncio.sleep(wait)
        else:
            return
    raise Conflict(f"Another shellwego holds {path.with_suffix('.lock')} for over {LOCK_SECONDS:g} s. Is it stuck?")


def _waits(total: float) -> Iterator[float]:
    spent, wait = 0.0, 0.02
    while spent < total:
        yield wait
        spent += wait
        wait = min(wait * 1.5, 0.5)
