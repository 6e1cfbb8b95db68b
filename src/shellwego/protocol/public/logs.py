"""A line that an app printed."""

from __future__ import annotations

import datetime as dt
from typing import Literal

from shellwego.protocol.public.bodies import Answer


class LogEntry(Answer):
    """A line of `GET /v1/apps/{app}/logs`: JSON lines, SSE with `Accept: text/event-stream`, or WebSocket messages."""

    at: dt.datetime
    instance: str
    process: str
    release: str
    stream: Literal["stdout", "stderr"]
    text: str
