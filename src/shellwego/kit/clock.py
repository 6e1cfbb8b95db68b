"""What time is it? The only place that asks, so that everything else can be told."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

Clock = Callable[[], dt.datetime]


def utc_now() -> dt.datetime:
    """The wall clock, timezone-aware, UTC."""
    return dt.datetime.now(dt.UTC)
