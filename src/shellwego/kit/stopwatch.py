"""For how long has something been so?

The wall clock may be set meanwhile, by an hour or a day. So what is waited for is timed from when this process first
asked about it, on a clock that nobody sets. A process that begins anew times anew: that is patience, never haste.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Hashable


class Stopwatch:
    """One start for each thing that lasts."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._since: dict[Hashable, float] = {}

    def seconds(self, what: Hashable) -> float:
        """How long ago this was asked for the first time."""
        now = self._monotonic()
        return now - self._since.setdefault(what, now)

    def forget_all_but(self, lasting: Collection[Hashable]) -> None:
        """Whatever else is asked for again begins anew."""
        self._since = {what: since for what, since in self._since.items() if what in lasting}
