"""Where do uploaded sources lie, and when are they true?

An upload is written beside its place, checked, and renamed when whole; its row comes last. A crash leaves a file that
no row names (garbage), never a row without its file.
"""

from __future__ import annotations

from pathlib import Path

from shellwego.control.services.app_access import emit, locked
from shellwego.control.services.callers import Caller
from shellwego.control.store import UnitOfWork
from shellwego.control.store.records import SourceRecord
from shellwego.core.ids import SourceId


def path_of(directory: Path, source: SourceRecord) -> Path:
    """Where the archive lies."""
    return directory / source.path


async def add_source(
    work: UnitOfWork, caller: Caller, reference: str, *, id: SourceId, path: str, size_bytes: int, sha256: str
) -> SourceRecord:
    """Record an archive that lies at `path` already. Raises NotFound, Conflict."""
    tenant, app = await locked(work, caller, reference)
    source = SourceRecord(
        id=id,
        organisation=app.organisation,
        app=app.id,
        path=path,
        size_bytes=size_bytes,
        sha256=sha256,
        created_at=work.now,
    )
    await tenant.sources.add(source)
    await emit(work, "app.source_uploaded", app, source=source.id, size_bytes=size_bytes, by=caller.email)
    return source
