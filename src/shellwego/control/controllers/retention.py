"""What may be forgotten, and when?

Disks fill up by what nobody removes. Once an hour: rows of instances and events that are history, answers kept for
retries, old uploads and build logs. Releases, and the images that they name, stay.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from pathlib import Path

import structlog

from shellwego.control.store.unit_of_work import Store

log = structlog.get_logger()

HISTORY = dt.timedelta(days=7)
RETRIES = dt.timedelta(hours=24)
UPLOADS = dt.timedelta(hours=24)
LOGS = dt.timedelta(days=30)
EVERY_SECONDS = 3600.0


class Retention:
    """`sources` and `builds` are the server's directories of uploaded sources and of build logs."""

    def __init__(self, store: Store, *, sources: Path, builds: Path) -> None:
        self._store, self._sources, self._builds = store, sources, builds

    async def once(self) -> None:
        async with self._store.writing() as work:
            now = work.now
            cloud = work.for_the_cloud()
            instances = await cloud.instances.forget_removed(before=now - HISTORY)
            events = await cloud.outbox.forget_published(before=now - HISTORY)
            answers = await work.idempotency.forget(before=now - RETRIES)
            busy = {d.source for d in await cloud.deployments.unfinished() if d.source is not None}
        removed = await asyncio.to_thread(_sweep, self._sources, now - UPLOADS, frozenset(busy))
        removed += await asyncio.to_thread(_sweep, self._builds, now - LOGS, frozenset())
        log.info("retention.done", instances=instances, events=events, answers=answers, files=removed)


def _sweep(directory: Path, before: dt.datetime, busy: frozenset[str]) -> int:
    """Remove files older than that whose name doesn't begin with a busy id."""
    removed = 0
    for path in directory.glob("*"):
        if path.name.split(".")[0] in busy or not path.is_file():
            continue
        if path.stat().st_mtime < before.timestamp():
            path.unlink(missing_ok=True)
            removed += 1
    return removed
