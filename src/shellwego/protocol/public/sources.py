"""The source of an app, as it was uploaded."""

from __future__ import annotations

import datetime as dt

from shellwego.protocol.public.bodies import Answer


class Source(Answer):
    """A packed source folder (tar, gzip or zstd), streamed to `POST /v1/apps/{app}/sources`."""

    id: str
    size_bytes: int
    sha256: str
    created_at: dt.datetime
