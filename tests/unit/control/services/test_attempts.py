"""Guessing passwords is slow, and costs only the guesser."""

from __future__ import annotations

import pytest

from shellwego.control.services.attempts import PER_ACCOUNT, PER_ADDRESS, WINDOW_SECONDS, Attempts
from shellwego.core.errors import TooManyRequests


def fail(attempts: Attempts, account: str, address: str, times: int, now: float = 0.0) -> None:
    for _ in range(times):
        attempts.ensure_allowed(account, address, now=now)
        attempts.failed(account, address, now=now)


def test_one_account_from_one_address_has_few_tries():
    attempts = Attempts()
    fail(attempts, "a", "1", PER_ACCOUNT)
    with pytest.raises(TooManyRequests) as refused:
        attempts.ensure_allowed("A", "1", now=1.0)
    assert 0 < refused.value.retry_after_seconds <= WINDOW_SECONDS + 1
    attempts.ensure_allowed("a", "2", now=1.0)
    attempts.ensure_allowed("a", "1", now=WINDOW_SECONDS + 1)


def test_one_address_cannot_walk_through_accounts():
    attempts = Attempts()
    for number in range(PER_ADDRESS):
        fail(attempts, f"user-{number}", "1", 1)
    with pytest.raises(TooManyRequests):
        attempts.ensure_allowed("someone-else", "1", now=0.0)
    attempts.ensure_allowed("someone-else", "2", now=0.0)


def test_signing_in_forgives():
    attempts = Attempts()
    fail(attempts, "a", "1", PER_ACCOUNT - 1)
    attempts.succeeded("a", "1")
    fail(attempts, "a", "1", PER_ACCOUNT - 1)


def test_a_flood_of_names_does_not_fill_the_memory():
    attempts = Attempts()
    for number in range(30_000):
        attempts.failed(f"user-{number}", f"10.0.{number // 250}.{number % 250}", now=0.0)
    assert len(attempts._failures) <= 10_000
