"""Who has failed to sign in too often?

Counted in memory per account and address together, and per address alone, so that nobody can lock another user out
from elsewhere, and one address can't walk through accounts. A restart forgives.
"""

from __future__ import annotations

from collections import OrderedDict, deque

from shellwego.core.errors import TooManyRequests

WINDOW_SECONDS = 300.0
PER_ACCOUNT, PER_ADDRESS = 5, 30
_REMEMBERED = 10_000


class Attempts:
    """`now` is seconds of a clock that never goes back."""

    def __init__(self) -> None:
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()

    def ensure_allowed(self, account: str, address: str, *, now: float) -> None:
        """Raises TooManyRequests."""
        for key, limit in _keys(account, address):
            failures = self._recent(key, now)
            if len(failures) >= limit:
                raise TooManyRequests(retry_after_seconds=int(failures[-limit] + WINDOW_SECONDS - now) + 1)

    def failed(self, account: str, address: str, *, now: float) -> None:
        for key, limit in _keys(account, address):
            failures = self._failures.setdefault(key, deque(maxlen=limit))
            failures.append(now)
            self._failures.move_to_end(key)
        while len(self._failures) > _REMEMBERED:
            self._failures.popitem(last=False)

    def succeeded(self, account: str, address: str) -> None:
        """A right password forgives the account's failures from there."""
        self._failures.pop(_keys(account, address)[0][0], None)

    def _recent(self, key: str, now: float) -> deque[float]:
        failures = self._failures.get(key, deque())
        while failures and failures[0] <= now - WINDOW_SECONDS:
            failures.popleft()
        return failures


def _keys(account: str, address: str) -> tuple[tuple[str, int], tuple[str, int]]:
    return (f"{account.lower()}\n{address}", PER_ACCOUNT), (f"\n{address}", PER_ADDRESS)
