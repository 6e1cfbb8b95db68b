"""How do a stranger's layers become one directory, and nothing else?

The rules (docs: OCI image-spec, layer.md), with the choices a container runtime has to make:

* Every path is walked from the root by directory descriptors that never follow a link, so an entry below a symbolic
  link is refused whoever made the link. Tools that record a file system (overlayfs diffs) never write such entries.
* A leading `/` is dropped, as by every runtime (images of `ko` have it); a `..` is refused.
* Device nodes and fifos are refused, overlayfs's 0:0 whiteout among them. Apps get their `/dev` from the runtime.
* Owners, modes and setuid bits are kept: the store is closed to users of the host, and in an instance
  `no_new_privs` makes setuid inert. Extended attributes are dropped: `security.capability` would be setuid by
  another name, and `trusted.overlay.*` would steer the overlay mounted on top.
* Nothing is ever opened for writing that exists: a file is unlinked and made anew, so a hard link can't be
  written through, be it the layer's own or to another tree (`link_tree`). Of two entries with one name the last wins.
* A whiteout hides what lower layers brought, never what its own layer brings, whatever the order (layer.md).
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections import OrderedDict

from shellwego.drivers.images.archive import Archive, Entry, Kind
from shellwego.drivers.images.limits import ImageLimits
from shellwego.drivers.images.removal import remove_tree
from shellwego.drivers.images.streams import Refused

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_WHITEOUT = b".wh."
_WHITEOUT_META = b".wh..wh."
_OPAQUE = b".wh..wh..opq"
_WRITE = 1024 * 1024
_OPEN_PARENTS = 16
_FORBIDDEN = frozenset({Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE, Kind.FIFO, Kind.OTHER})
_EARLIEST_NS, _LATEST_NS = -(2**31) * 10**9, 2**33 * 10**9

Parts = tuple[bytes, ...]


class Extractor:
    """Applies layers, lowest first, to the directory behind the descriptor `root`, which it doesn't close."""

    def __init__(self, root: int, limits: ImageLimits, *, keep_owners: bool) -> None:
        self._root = root
        self._limits = limits
        self._keep_owners = keep_owners
        self._parents: OrderedDict[Parts, int] = OrderedDict()
        self._parents_changed = False
        self._late: dict[Parts, Entry] = {}
        self._has_lower = False
        self._fresh: set[Parts] | None = None
        self.entries = 0
        self.bytes = 0

    def link_tree(self, tree: int) -> None:
        """
        Begin with what an extractor made of lower layers, in the directory behind `tree`: its files get one more
        name each, its directories are made anew. Raises Refused for one past the limits, OSError.
        """
        self._has_lower = True
        self._link_directory(tree, self._root, seen=set())

    def go_on(self, *, entries: int, size_bytes: int) -> None:
        """Begin where an extractor left the directory after `link_tree`, with what it had counted by then."""
        self._has_lower = True
        self.entries, self.bytes = entries, size_bytes

    def _link_directory(self, source: int, target: int, seen: set[int]) -> None:
        with os.scandir(source) as entries:
            for entry in entries:
                self._count()
                if entry.is_dir(follow_symlinks=False):
                    os.mkdir(entry.name, 0o700, dir_fd=target)
                    inside = os.open(entry.name, _DIRECTORY, dir_fd=source)
                    copy = os.open(entry.name, _DIRECTORY, dir_fd=target)
                    try:
                        self._link_directory(inside, copy, seen)
                    finally:
                        os.close(inside)
                        os.close(copy)
                    continue
                os.link(entry.name, entry.name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
                if entry.inode() not in seen:
                    seen.add(entry.inode())
                    self.bytes += entry.stat(follow_symlinks=False).st_size
        found = os.fstat(source)
        if self._keep_owners:
            os.fchown(target, found.st_uid, found.st_gid)
        os.fchmod(target, stat.S_IMODE(found.st_mode))
        os.utime(target, ns=(found.st_mtime_ns, found.st_mtime_ns))

    def apply(self, archive: Archive) -> None:
        """Apply one layer. Raises Refused, after which the directory is good for nothing; or OSError."""
        # What this layer brought so far; the first layer has nothing below that a whiteout could hide.
        self._fresh = set() if self._has_lower else None
        self._has_lower = True
        self._late = {}
        try:
            for entry in archive:
                self._count()
                self.bytes += entry.size
                if self.bytes > self._limits.unpacked_bytes:
                    raise Refused(f"unpacked, it has more than {self._limits.unpacked_bytes} bytes.")
                self._apply_entry(archive, entry)
            self._settle_directories()
        except OSError as error:
            if error.errno in (errno.ENAMETOOLONG, errno.EMLINK, errno.EFBIG, errno.EILSEQ):
                raise Refused(f"the file system can't hold an entry of it: {error.strerror}.") from error
            raise
        finally:
            self._forget_parents()

    def _apply_entry(self, archive: Archive, entry: Entry) -> None:
        if self._parents_changed:
            self._forget_parents()
        parts = self._split(entry.name)
        if entry.kind in _FORBIDDEN:
            raise Refused(f"{_show(entry.name)} is a {entry.kind.value}.")
        if not parts:
            if entry.kind is not Kind.DIRECTORY:
                raise Refused(f"{_show(entry.name)} would replace the root directory by a {entry.kind.value}.")
            self._late[parts] = entry
            return
        *above, base = parts
        parent = tuple(above)
        for part in above:
            if part.startswith(_WHITEOUT_META):
                return  # Below aufs's own bookkeeping (`.wh..wh.plnk`): no part of the image.
            if part.startswith(_WHITEOUT):
                raise Refused(f"{_show(entry.name)} is below a whiteout.")
        if base.startswith(_WHITEOUT):
            self._apply_whiteout(entry, parent, base)
            return
        match entry.kind:
            case Kind.DIRECTORY:
                self._make_directory(entry, parent, base)
            case Kind.FILE:
                self._make_file(archive, entry, parent, base)
            case Kind.SYMLINK:
                self._make_symlink(entry, parent, base)
            case _:
                self._make_hard_link(entry, parent, base)
        self._remember(parts)

    # The kinds of entries.

    def _make_directory(self, entry: Entry, parent: Parts, base: bytes) -> None:
        directory = self._open(parent, create=True)
        try:
            os.mkdir(base, 0o700, dir_fd=directory)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(base, dir_fd=directory, follow_symlinks=False).st_mode):
                os.unlink(base, dir_fd=directory)
                os.mkdir(base, 0o700, dir_fd=directory)
        # Mode, owner and times at the layer's end: making children would change the times, and a read-only
        # directory would keep anyone but root from making them.
        self._late[(*parent, base)] = entry

    def _make_file(self, archive: Archive, entry: Entry, parent: Parts, base: bytes) -> None:
        directory = self._open(parent, create=True)
        try:
            file = os.open(base, _NEW_FILE, 0o600, dir_fd=directory)
        except FileExistsError:
            self._remove(directory, base)
            file = os.open(base, _NEW_FILE, 0o600, dir_fd=directory)
        try:
            if entry.pieces is None:
                _write(archive, file, entry.stored)
            else:
                for offset, length in entry.pieces:
                    os.lseek(file, offset, os.SEEK_SET)
                    _write(archive, file, length)
                os.ftruncate(file, entry.size)
            if self._keep_owners:
                os.fchown(file, *_owner(entry))
            os.fchmod(file, entry.mode)  # After chown, which clears setuid.
            os.utime(file, ns=_times(entry))
        finally:
            os.close(file)

    def _make_symlink(self, entry: Entry, parent: Parts, base: bytes) -> None:
        if not entry.link or b"\0" in entry.link or len(entry.link) > self._limits.path_bytes:
            raise Refused(f"the symbolic link {_show(entry.name)} has an impossible target.")
        directory = self._open(parent, create=True)
        try:
            os.symlink(entry.link, base, dir_fd=directory)
        except FileExistsError:
            self._remove(directory, base)
            os.symlink(entry.link, base, dir_fd=directory)
        if self._keep_owners:
            os.chown(base, *_owner(entry), dir_fd=directory, follow_symlinks=False)
        os.utime(base, ns=_times(entry), dir_fd=directory, follow_symlinks=False)

    def _make_hard_link(self, entry: Entry, parent: Parts, base: bytes) -> None:
        target = self._split(entry.link)
        problem = f"the hard link {_show(entry.name)} points at {_show(entry.link)}, which"
        if not target:
            raise Refused(f"{problem} is a directory.")
        source = self._find(target[:-1])
        try:
            found = None if source is None else os.stat(target[-1], dir_fd=source, follow_symlinks=False)
        except FileNotFoundError:
            found = None
        if found is None:
            raise Refused(f"{problem} is not in the image.")
        if stat.S_ISDIR(found.st_mode):
            raise Refused(f"{problem} is a directory.")
        if target == (*parent, base):
            return
        directory = self._open(parent, create=True)
        for _ in range(2):
            try:
                # Never through a symbolic link at the end: that would be a name for a file outside.
                os.link(target[-1], base, src_dir_fd=source, dst_dir_fd=directory, follow_symlinks=False)
                return
            except FileExistsError:
                if os.path.samestat(found, os.stat(base, dir_fd=directory, follow_symlinks=False)):
                    return
                self._remove(directory, base)
            except FileNotFoundError:
                break  # The target was inside the tree that the link replaces.
        raise Refused(f"{problem} is not in the image.")

    def _apply_whiteout(self, entry: Entry, parent: Parts, base: bytes) -> None:
        if entry.kind not in (Kind.FILE, Kind.HARD_LINK):
            raise Refused(f"the whiteout {_show(entry.name)} is a {entry.kind.value}.")
        if base.startswith(_WHITEOUT_META) and base != _OPAQUE:
            return
        hidden = base.removeprefix(_WHITEOUT)
        if hidden in (b"", b".", b".."):
            raise Refused(f"the whiteout {_show(entry.name)} hides nothing that has a name.")
        if self._fresh is None:
            return
        directory = self._find(parent)
        if directory is None:
            return
        if base == _OPAQUE:
            for name in os.listdir(directory):  # noqa: PTH208  a descriptor, not a path
                self._remove_lower(directory, os.fsencode(name), parent)
        else:
            self._remove_lower(directory, hidden, parent)

    def _remove_lower(self, directory: int, name: bytes, parent: Parts) -> None:
        path = (*parent, name)
        if self._fresh is None or path not in self._fresh:
            with contextlib.suppress(FileNotFoundError):
                self._remove(directory, name)
            return
        # This layer's own: it stays, but of a directory only what this layer put there.
        try:
            inside = os.open(name, _DIRECTORY, dir_fd=directory)
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ENOENT, errno.ELOOP):
                return
            raise
        try:
            for child in os.listdir(inside):  # noqa: PTH208  a descriptor, not a path
                self._remove_lower(inside, os.fsencode(child), path)
        finally:
            os.close(inside)

    # Paths and descriptors.

    def _split(self, name: bytes) -> Parts:
        parts = tuple(part for part in name.split(b"/") if part not in (b"", b"."))
        if b".." in parts:
            raise Refused(f"{_show(name)} climbs out by '..'.")
        if b"\0" in name or any(len(part) > 255 for part in parts):
            raise Refused(f"{_show(name)} is no name a file can have.")
        if len(name) > self._limits.path_bytes or len(parts) > self._limits.path_depth:
            raise Refused(
                f"{_show(name)} is too long a path; the limits are {self._limits.path_bytes} bytes and "
                f"{self._limits.path_depth} levels."
            )
        return parts

    def _find(self, parts: Parts) -> int | None:
        """A descriptor of the directory, or None when there is none of that name. Never follows a link."""
        try:
            return self._open(parts, create=False)
        except FileNotFoundError:
            return None

    def _open(self, parts: Parts, *, create: bool) -> int:
        """A descriptor of the directory, owned by the cache; with `create`, missing ones are made."""
        cached = self._parents.get(parts)
        if cached is not None:
            self._parents.move_to_end(parts)
            return cached
        if not parts:
            return self._root
        above = self._open(parts[:-1], create=create)
        base = parts[-1]
        try:
            directory = self._enter(above, base, parts)
        except FileNotFoundError:
            if not create:
                raise
            self._count()  # Otherwise a million entries could make a hundred million directories.
            os.mkdir(base, 0o755, dir_fd=above)
            directory = self._enter(above, base, parts)
            os.fchmod(directory, 0o755)  # The umask is ours, not the image's.
        self._parents[parts] = directory
        if len(self._parents) > _OPEN_PARENTS + self._limits.path_depth:
            _, oldest = self._parents.popitem(last=False)
            os.close(oldest)
        return directory

    def _enter(self, above: int, base: bytes, parts: Parts) -> int:
        try:
            return os.open(base, _DIRECTORY, dir_fd=above)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                found = os.stat(base, dir_fd=above, follow_symlinks=False).st_mode
                what = "symbolic link" if stat.S_ISLNK(found) else "file"
                raise Refused(f"an entry lies below {_show(b'/'.join(parts))}, which is a {what}.") from error
            raise

    def _forget_parents(self) -> None:
        for descriptor in self._parents.values():
            os.close(descriptor)
        self._parents.clear()
        self._parents_changed = False

    def _remove(self, directory: int, name: bytes) -> None:
        try:
            os.unlink(name, dir_fd=directory)
        except (IsADirectoryError, PermissionError):
            # Cached descriptors may lead into the removed tree now. They stay open until the next entry, since the
            # caller still holds some.
            self._parents_changed = True
            remove_tree(directory, name)

    # Bookkeeping.

    def _count(self) -> None:
        self.entries += 1
        if self.entries > self._limits.entries:
            raise Refused(f"it has more than {self._limits.entries} entries.")

    def _remember(self, parts: Parts) -> None:
        if self._fresh is None:
            return
        while parts and parts not in self._fresh:
            self._fresh.add(parts)
            parts = parts[:-1]

    def _settle_directories(self) -> None:
        # Deepest first: setting the times of a child leaves its parent's alone, but not so a later chmod to 0.
        for parts, entry in sorted(self._late.items(), key=lambda item: -len(item[0])):
            try:
                directory = self._find(parts)
            except Refused:
                continue  # Replaced by something else later in the layer.
            if directory is None:
                continue
            if self._keep_owners:
                os.fchown(directory, *_owner(entry))
            os.fchmod(directory, entry.mode)
            os.utime(directory, ns=_times(entry))


def _write(archive: Archive, file: int, count: int) -> None:
    while count:
        piece = archive.data(min(count, _WRITE))
        if not piece:
            raise Refused("a layer's archive ends in the middle of a file.")
        count -= len(piece)
        while piece:
            piece = piece[os.write(file, piece) :]


def _owner(entry: Entry) -> tuple[int, int]:
    # The last number means "leave it" to chown(2), and none is negative.
    if not (0 <= entry.uid < 2**32 - 1 and 0 <= entry.gid < 2**32 - 1):
        raise Refused(f"{_show(entry.name)} belongs to an impossible user or group.")
    return entry.uid, entry.gid


def _times(entry: Entry) -> tuple[int, int]:
    moment = min(max(entry.mtime_ns, _EARLIEST_NS), _LATEST_NS)
    return moment, moment


def _show(name: bytes) -> str:
    text = name.decode(errors="backslashreplace")
    return repr(text if len(text) <= 120 else text[:120] + "...")
