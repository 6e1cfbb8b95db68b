"""Is this the user's password?

Argon2id with the parameters of RFC 9106's second choice. Hashing takes tens of milliseconds and 64 MiB on purpose, so
it runs in a thread, a few at a time, and never inside a transaction.
"""

from __future__ import annotations

import asyncio

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

_AT_ONCE = 2


class Passwords:
    """Hashes and checks, a few at a time. `memory_kib` is made small by tests only."""

    def __init__(self, *, memory_kib: int = 64 * 1024, rounds: int = 3) -> None:
        self._hasher = PasswordHasher(time_cost=rounds, memory_cost=memory_kib, parallelism=1)
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._nobodys: str | None = None

    async def hash(self, password: str) -> str:
        async with self._turns:
            return await asyncio.to_thread(self._hasher.hash, password)

    async def matches(self, password: str, password_hash: str | None) -> bool:
        """Whether it is the password. An unknown user (None) takes as long as a wrong password."""
        if password_hash is None:
            if self._nobodys is None:
                self._nobodys = await self.hash("nobody's password")
            await self._verify(password, self._nobodys)
            return False
        return await self._verify(password, password_hash)

    async def _verify(self, password: str, password_hash: str) -> bool:
        async with self._turns:
            try:
                return await asyncio.to_thread(self._hasher.verify, password_hash, password)
            except (Argon2Error, InvalidHashError):
                return False
