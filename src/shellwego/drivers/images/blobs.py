"""Where do blobs live, and how do they get there whole?

`blobs/sha256/HEX` exists only after its content hashed to HEX and was fsynced. What is on its way lies in
`partial/HEX`, under a lock of that digest, and is taken up again by whoever comes next.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path

from shellwego.core.errors import DiskFull
from shellwego.drivers.images.locks import locked
from shellwego.drivers.images.manifest import Descriptor, digest_of
from shellwego.drivers.images.threads import in_thread
from shellwego.kit.disks import FULL
from shellwego.kit.faults import fault_point, reach
from shellwego.kit.files import replace_file, sync_directory

BLOB_RECEIVING = fault_point("images.blob.receiving")
BLOB_RECEIVED = fault_point("images.blob.received")
BLOB_NAMED = fault_point("images.blob.named")

_CHUNK = 1024 * 1024
_TRUST_SECONDS = 600.0
"""How long a blob that was read and found whole, and not written to since, is handed out without reading it again."""


@contextlib.contextmanager
def disk_full_as_error(doing: str) -> Iterator[None]:
    """Translate ENOSPC and EDQUOT, once, into what callers know."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise DiskFull(doing) from error
        raise


class WrongContent(Exception):
    """All bytes are here and hash to something else. They are gone again."""

    def __init__(self, digest: str, *, resumed: bool) -> None:
        self.digest, self.resumed = digest, resumed
        super().__init__(f"content does not match {digest}")


class PartialBlob:
    """A blob on its way, for one writer: the holder of the digest's lock."""

    def __init__(self, path: Path, blob: Descriptor) -> None:
        self._path = path
        self._blob = blob
        self._file = -1
        self._hash = hashlib.sha256()
        self._buffer = bytearray()
        self.done = 0
        """Bytes received so far, with those of earlier tries."""
        self.resumed = False
        """Some of the bytes are from an earlier try."""

    async def open(self) -> None:
        with disk_full_as_error("storing a layer"):
            await in_thread(self._open)

    async def append(self, data: bytes) -> None:
        self._buffer += data
        self.done += len(data)
        if len(self._buffer) >= _CHUNK:
            await self.flush()

    async def flush(self) -> None:
        chunk = bytes(self._buffer)
        self._buffer.clear()
        try:
            with disk_full_as_error("storing a layer"):
                await in_thread(self._write, chunk)
        except DiskFull:
            self.discard()
            raise

    async def restart(self) -> None:
        self._buffer.clear()
        await in_thread(os.ftruncate, self._file, 0)
        os.lseek(self._file, 0, os.SEEK_SET)
        self._hash = hashlib.sha256()
        self.done = 0
        self.resumed = False

    async def commit(self, final: Path) -> None:
        """Give the content its name, if it is what the name says. Raises WrongContent, DiskFull."""
        await self.flush()
        if self.done != self._blob.size or f"sha256:{self._hash.hexdigest()}" != self._blob.digest:
            resumed = self.resumed
            await self.restart()
            raise WrongContent(self._blob.digest, resumed=resumed)
        with disk_full_as_error("storing a layer"):
            await in_thread(self._sync)
            await reach(BLOB_RECEIVED)
            self._path.rename(final)
            await in_thread(sync_directory, final.parent)
        await reach(BLOB_NAMED)

    def discard(self) -> None:
        self._path.unlink(missing_ok=True)

    def close(self) -> None:
        if self._file >= 0:
            if self._buffer:
                with contextlib.suppress(OSError):  # A few bytes less to resume from.
                    self._write(bytes(self._buffer))
            if os.fstat(self._file).st_size == 0:
                self.discard()
            os.close(self._file)
            self._file = -1

    def _sync(self) -> None:
        try:
            os.fsync(self._file)
        except OSError:
            self.discard()  # The kernel tells of a failure once: the next try would believe what it reads here.
            raise

    def _open(self) -> None:
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        if os.fstat(self._file).st_size > self._blob.size:
            os.ftruncate(self._file, 0)
        while data := os.read(self._file, _CHUNK):
            self._hash.update(data)
            self.done += len(data)
        self.resumed = self.done > 0

    def _write(self, data: bytes) -> None:
        self._hash.update(data)
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._file, rest) :]


class BlobStore:
    """Blobs by digest below one directory."""

    def __init__(self, directory: Path) -> None:
        self.blobs = directory / "blobs" / "sha256"
        self.partial = directory / "partial"
        self.locks = directory / "locks"
        self._found_whole: dict[str, tuple[tuple[int, ...], float]] = {}

    def path(self, digest: str) -> Path:
        return self.blobs / digest.removeprefix("sha256:")

    def lock_path(self, digest: str) -> Path:
        return self.locks / f"blob-{digest.removeprefix('sha256:')}"

    def has(self, blob: Descriptor) -> bool:
        """A cheap answer: there, and of the right size. Content is checked when it is read."""
        try:
            found = self.path(blob.digest).lstat()
        except FileNotFoundError:
            return False
        return stat.S_ISREG(found.st_mode) and found.st_size == blob.size

    def find_small(self, digest: str, *, limit: int) -> bytes | None:
        """A manifest or config, verified; None when it is missing or damaged."""
        try:
            with self.path(digest).open("rb") as file:
                content = file.read(limit + 1)
        except FileNotFoundError:
            return None
        return content if digest_of(content) == digest else None

    def put_small(self, content: bytes) -> str:
        """Store a manifest or config. Raises DiskFull."""
        digest = digest_of(content)
        path = self.path(digest)
        if self.find_small(digest, limit=len(content)) is None:
            with disk_full_as_error("storing an image's manifest"):
                replace_file(path, content)
        return digest

    def discard(self, digest: str) -> None:
        """Forget a damaged blob."""
        self.path(digest).unlink(missing_ok=True)

    def discard_damaged(self, blobs: Iterable[Descriptor]) -> None:
        """Read all of them; what rotted once may have rotted in more places."""
        for blob in blobs:
            with contextlib.suppress(FileNotFoundError):
                if not self._is_whole(self.path(blob.digest), blob):
                    self.discard(blob.digest)

    @contextlib.asynccontextmanager
    async def receiving(self, blob: Descriptor) -> AsyncIterator[PartialBlob | None]:
        """Hold the digest's lock and yield where its bytes go; None when the blob is here (by now)."""
        async with locked(self.lock_path(blob.digest)):
            if self.has(blob):
                yield None
                return
            self.discard(blob.digest)  # Of the wrong size: somebody or something cut it off.
            partial = PartialBlob(self.partial / blob.hex, blob)
            try:
                await partial.open()
                await reach(BLOB_RECEIVING)
                yield partial
            finally:
                partial.close()

    def link_or_copy_in(self, blob: Descriptor, source: Path) -> None:
        """
        Take in a blob from a file, under the digest's lock. Raises WrongContent, FileNotFoundError, DiskFull.

        A hard link is good enough only for a file that nobody else can write: it would change in our store, too.
        """
        new = self.partial / f"{blob.hex}.{os.getpid()}.new"
        with disk_full_as_error("importing an image"), open_regular(source) as (file, found):
            try:
                new.unlink(missing_ok=True)
                ours = found.st_uid == os.geteuid() and not found.st_mode & 0o022
                if not (ours and _link(source, new)):
                    _copy(file, new)
                if not self._is_whole(new, blob):
                    raise WrongContent(blob.digest, resumed=False)
                new.rename(self.path(blob.digest))
            finally:
                new.unlink(missing_ok=True)
        sync_directory(self.blobs)

    def link_or_copy_out(self, blob: Descriptor, target: Path) -> None:
        """Put a blob into somebody's layout. Raises FileNotFoundError, WrongContent, DiskFull."""
        source = self.path(blob.digest)
        seen = source.stat()
        look = (seen.st_ino, seen.st_size, seen.st_mtime_ns)
        looked, at = self._found_whole.get(blob.digest, ((), 0.0))
        # Every build of every app takes its base out; reading it whole each time would be half of a small redeploy.
        if looked != look or time.monotonic() - at > _TRUST_SECONDS:
            if not self._is_whole(source, blob):
                raise WrongContent(blob.digest, resumed=False)
            self._found_whole[blob.digest] = look, time.monotonic()
        with disk_full_as_error("exporting an image"):
            if target.exists():
                return
            if not _link(source, target):
                shutil.copyfile(source, target)

    @staticmethod
    def _is_whole(path: Path, blob: Descriptor) -> bool:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size != blob.size:
                return False
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest == blob.hex:
                os.fsync(file.fileno())
                return True
        return False


@contextlib.contextmanager
def open_regular(path: Path) -> Iterator[tuple[int, os.stat_result]]:
    """A regular file that is no link: a layout could point at /etc/shadow and let the digest confirm a guess."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise FileNotFoundError(errno.ENOENT, "is a symbolic link", str(path)) from error
        raise
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            raise FileNotFoundError(errno.ENOENT, "is no regular file", str(path))
        yield file, found
    finally:
        os.close(file)


def _link(source: Path, target: Path) -> bool:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP):
            return False
        raise
    return True


def _copy(file: int, target: Path) -> None:
    with os.fdopen(os.dup(file), "rb") as source, target.open("xb") as copy:
        shutil.copyfileobj(source, copy, _CHUNK)
