"""What is inside an image, seen from the host?

An image is a stranger's tree: a link in it may point anywhere. Everything here opens paths as the sandbox will, with
the image as root (openat2(2), RESOLVE_IN_ROOT), so that no link leads out of it. Our own look before the start also
tells a user in plain words what a runtime hides in its own: a command that isn't there, a script with DOS line ends.
"""

from __future__ import annotations

import ctypes
import os
import platform
import stat
from collections.abc import Mapping
from pathlib import Path

from shellwego.core.errors import StartFailed

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_SYS_OPENAT2 = 437  # The same number on every architecture: it is younger than their separate tables.
_RESOLVE_IN_ROOT = 0x10
_RESOLVE_NO_MAGICLINKS = 0x02
_LONGEST_SHEBANG = 256
_ELF_MACHINES = {3: "i386", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv64"}

_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def open_inside(root: Path, path: str, flags: int = os.O_RDONLY) -> int:
    """A descriptor of `path` as a process with `root` as its root would open it. Raises OSError."""
    descriptor = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if not flags & os.O_PATH:  # openat2 refuses flags that mean nothing together.
            flags |= os.O_NONBLOCK  # A fifo in an image must not hold us up.
        how = _OpenHow(flags | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
        opened = _libc.syscall(
            _SYS_OPENAT2, descriptor, os.fsencode(path), ctypes.byref(how), ctypes.c_size_t(ctypes.sizeof(how))
        )
        if opened < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), path)
        return int(opened)
    finally:
        os.close(descriptor)


def read_inside(root: Path, path: str, *, limit: int = 1 << 20) -> bytes:
    """The first `limit` bytes of a regular file. Raises OSError; anything but a file reads as empty."""
    descriptor = open_inside(root, path)
    try:
        return os.read(descriptor, limit) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""
    finally:
        os.close(descriptor)


def find_inside(root: Path, path: str) -> tuple[str, os.stat_result] | None:
    """Where `path` ends after its links, as a path inside, and what is there. None if nothing is."""
    try:
        descriptor = open_inside(root, path, os.O_PATH)
    except OSError:
        return None
    try:
        real = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        return "/" + real.removeprefix(os.path.realpath(root)).lstrip("/"), os.fstat(descriptor)
    finally:
        os.close(descriptor)


def is_empty_inside(root: Path, path: str) -> bool:
    """Whether the image holds nothing there: no such folder, or an empty one."""
    try:
        descriptor = open_inside(root, path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return True
    try:
        return not os.listdir(descriptor)  # noqa: PTH208 (pathlib takes no descriptor)
    finally:
        os.close(descriptor)


def check_directory(root: Path, cwd: str) -> None:
    """Raises StartFailed unless the working directory exists."""
    found = find_inside(root, cwd)
    if found is None or not stat.S_ISDIR(found[1].st_mode):
        raise StartFailed(f"The working directory {cwd!r} is not in the image.")


def check_command(root: Path, args: tuple[str, ...], env: Mapping[str, str], cwd: str) -> None:
    """Raises StartFailed, saying why, for a command that can't run."""
    if not args or not args[0]:
        raise StartFailed("There is no command to run: neither the image nor the app names one.")
    name = args[0]
    search = env.get("PATH", DEFAULT_PATH)
    places = [f"{cwd}/{name}"] if "/" in name else [f"{folder or cwd}/{name}" for folder in search.split(":")]
    if name.startswith("/"):
        places = [name]
    refused = ""
    for place in places:
        found = find_inside(root, place)
        if found is None:
            continue
        if stat.S_ISDIR(found[1].st_mode):
            refused = refused or f"The command {name!r} is a directory."
        elif not found[1].st_mode & 0o111:
            refused = refused or f"The command {found[0]!r} is not executable (chmod +x it when the image is built)."
        else:
            _check_format(root, found[0])
            return
    where = "" if "/" in name else f" (looked in {search})"
    raise StartFailed(refused or f"The command {name!r} was not found in the image{where}.")


def _check_format(root: Path, program: str) -> None:
    try:
        head = read_inside(root, program, limit=_LONGEST_SHEBANG)
    except OSError:
        return  # The runtime has the last word on what it can open.
    if head.startswith(b"#!"):
        line = head[2:].partition(b"\n")[0]
        words = line.split(None, 1)
        interpreter = os.fsdecode(words[0]) if words else ""
        if interpreter and find_inside(root, interpreter) is None:
            raise StartFailed(f"{program!r} asks for {interpreter!r} in its first line, which is not in the image.")
        if line.endswith(b"\r"):
            raise StartFailed(f"{program!r} has Windows line ends (CR LF). Convert it to LF.")
    elif head.startswith(b"\x7fELF") and len(head) >= 20:
        machine = _ELF_MACHINES.get(int.from_bytes(head[18:20], "little" if head[5] == 1 else "big"))
        here = platform.machine()
        # i386 runs on x86_64 and arm on some aarch64: what surely can't is the other family.
        families = {"x86_64": {"x86_64", "i386"}, "aarch64": {"aarch64", "arm"}}.get(here)
        if machine is not None and families is not None and machine not in families:
            raise StartFailed(f"{program!r} is built for {machine}, and this node is {here}.")
