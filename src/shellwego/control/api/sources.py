"""How does a packed source come in?

As a stream, straight to disk: counted, hashed and, only when it is whole, renamed into place and recorded. What breaks
off leaves nothing. No transaction is open while bytes arrive.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.requests import ClientDisconnect

from shellwego.control.api import answers
from shellwego.control.api.calls import (
    Call,
    IdempotencyKey,
    RequestCredential,
    caller_of,
    checked_key,
)
from shellwego.control.api.parts import ApiParts, parts_of
from shellwego.control.api.problems import TooSlow, UnsupportedMediaType
from shellwego.control.services import sources
from shellwego.core.errors import DiskFull, InvalidField, Unavailable
from shellwego.core.ids import SourceId, new_id
from shellwego.kit.disks import FULL
from shellwego.kit.faults import fault_point, reach
from shellwego.kit.files import sync_directory
from shellwego.protocol import public

router = APIRouter(prefix="/v1/apps", tags=["sources"])

_WRITTEN = fault_point("server.sources.written")
_RENAMED = fault_point("server.sources.renamed")
_BUFFER_BYTES = 256 * 1024
_HEAR_OUT_SECONDS = 60.0
_TYPES = {
    "application/gzip",
    "application/octet-stream",
    "application/tar+gzip",
    "application/x-gzip",
    "application/x-tar",
    "application/zstd",
}
_UPLOAD_BODY = {
    "requestBody": {
        "required": True,
        "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in sorted(_TYPES)},
    }
}


@router.post(
    "/{app}/sources",
    operation_id="uploadSource",
    status_code=201,
    response_model=public.Source,
    openapi_extra=_UPLOAD_BODY,
)
async def upload_source(
    request: Request,
    app: str,
    credential: RequestCredential,
    idempotency_key: IdempotencyKey = None,
) -> object:
    """A tar of a source folder, plain or squeezed with gzip or zstd. Up to 512 MB, streamed."""
    parts = parts_of(request)
    key = checked_key(idempotency_key)
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type not in _TYPES:
        raise UnsupportedMediaType(content_type, "application/gzip, application/zstd or application/x-tar")
    async with parts.store.reading() as work:  # Refused before a byte is taken, not after half a gigabyte.
        caller, _ = await caller_of(work, credential)
        await work.for_organisation(caller.organisation).apps.named(app)
    id = SourceId(new_id("source", parts.random_bytes))
    async with _received(request, parts, parts.settings.sources / id) as upload:
        await reach(_RENAMED)
        async with parts.store.writing() as work:
            caller, _ = await caller_of(work, credential)
            call = Call(request, parts, work, caller, key)

            async def act() -> BaseModel:
                source = await sources.add_source(
                    work, caller, app, id=id, path=id, size_bytes=upload.size_bytes, sha256=upload.sha256
                )
                upload.keep = True
                return answers.source(source)

            answer: object = await call.once(act, fingerprint=upload.sha256)
    return answer


class _Upload:
    """A whole upload. It is removed again unless `keep` is set and all went well."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self.hash = hashlib.sha256()
        self.keep = False

    @property
    def sha256(self) -> str:
        return self.hash.hexdigest()


@contextlib.asynccontextmanager
async def _received(request: Request, parts: ApiParts, path: Path) -> AsyncIterator[_Upload]:
    """The request's body, at `path` while the block runs, and after it only if the block kept it."""
    temporary = path.with_name(f".{path.name}.upload")
    upload, chunks = _Upload(), request.stream()
    kept = False
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            await _write(chunks, parts, temporary, upload)
            await reach(_WRITTEN)
            temporary.rename(path)
            sync_directory(path.parent)
        except OSError as error:
            if error.errno in FULL:
                _discard(temporary)
                await _hear_out(chunks)
                raise DiskFull("storing the source") from error
            if error.errno in {errno.EROFS, errno.EIO}:
                await _hear_out(chunks)
                raise Unavailable("The server's disk", f"{error.strerror}.") from error
            raise
        yield upload
        kept = upload.keep
    finally:
        _discard(temporary)
        if not kept:
            _discard(path)


def _discard(path: Path) -> None:
    """What a failed disk still holds goes with `Retention`; here the upload's own fate is what matters."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


async def _write(chunks: AsyncIterator[bytes], parts: ApiParts, path: Path, upload: _Upload) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb", buffering=0) as file:
        buffer = bytearray()
        idle = parts.settings.idle_upload_seconds
        while True:
            try:
                async with asyncio.timeout(idle):
                    chunk = await anext(chunks, None)
            except TimeoutError as error:
                raise TooSlow(idle) from error
            buffer += chunk or b""
            if buffer and upload.size_bytes == 0:
                _check_kind(bytes(buffer[:300]), is_all=chunk is None)
            if chunk is None or len(buffer) >= _BUFFER_BYTES:
                upload.size_bytes += len(buffer)
                await asyncio.to_thread(_flush, file.fileno(), bytes(buffer), upload, sync=chunk is None)
                buffer.clear()
            if chunk is None:
                break
    if upload.size_bytes == 0:
        raise InvalidField("body", "is empty. Send a tar of the source folder.")


async def _hear_out(chunks: AsyncIterator[bytes]) -> None:
    """
    Take the rest of the body and forget it. A connection that is closed with bytes unread is reset (RFC 9112, 9.6), and
    the client, still sending, never gets to see why.
    """
    with contextlib.suppress(TimeoutError, ClientDisconnect):
        async with asyncio.timeout(_HEAR_OUT_SECONDS):
            async for _ in chunks:
                pass


def _flush(descriptor: int, content: bytes, upload: _Upload, *, sync: bool) -> None:
    upload.hash.update(content)
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
    if sync:
        os.fsync(descriptor)


def _check_kind(head: bytes, *, is_all: bool) -> None:
    """Refuse at once what no tar begins with; the builder looks at the rest. Raises InvalidField."""
    if head.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd")) or head[257:262] == b"ustar":
        return
    if is_all or len(head) >= 262:
        raise InvalidField("body", "is no tar, gzip or zstd archive. `shellwego deploy DIR` packs one.")


def remove_half_uploads(directory: Path) -> None:
    """What a killed server left of uploads: for the server's start, before it listens."""
    for path in directory.glob(".*.upload"):
        path.unlink(missing_ok=True)
