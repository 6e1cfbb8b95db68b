"""Where do random bytes come from that are asked for all the time?

From the kernel, some thousand at once: a call for each id costs more than the id. For names that must never meet, not
for secrets: what isn't handed out yet lies in memory.
"""

from __future__ import annotations

import os
import threading

_POOL_BYTES = 4096


class Entropy:
    """A pool of the kernel's random bytes. No two calls get the same ones, from whichever thread or after a fork."""

    def __init__(self) -> None:
        self._lock, self._pool, self._at = threading.Lock(), b"", 0
        os.register_at_fork(after_in_child=self._forget)

    def __call__(self, count: int) -> bytes:
        """So many bytes (getrandom(2)). Raises ValueError for more than a pool holds."""
        if not 0 <= count <= _POOL_BYTES:
            raise ValueError(f"{count} bytes of {_POOL_BYTES}")
        with self._lock:
            if len(self._pool) - self._at < count:
                self._pool, self._at = os.urandom(_POOL_BYTES), 0
            self._at += count
            return self._pool[self._at - count : self._at]

    def _forget(self) -> None:
        self._lock, self._pool, self._at = threading.Lock(), b"", 0


entropy = Entropy()
"""This process's."""
