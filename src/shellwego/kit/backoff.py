"""How long to wait before the next try?"""

from __future__ import annotations

from collections.abc import Callable


def backoff_seconds(
    attempt: int,
    *,
    first: float = 0.5,
    factor: float = 2.0,
    limit: float = 60.0,
    jitter: Callable[[], float] | None = None,
) -> float:
    """
    Seconds to wait after failed attempt number `attempt` (from 1): `first`, doubled each time, at most `limit`.

    `jitter` returns a number in [0, 1) and shortens the wait by up to half of it, so that a thousand clients
    that failed together don't come back together.
    """
    exponent = min(max(attempt, 1) - 1, 64)  # Beyond this the float overflows, long past any limit.
    wait = min(limit, first * factor**exponent)
    return wait if jitter is None else wait * (1 - jitter() / 2)
