"""What can the process that reads a stranger's archive still do, should it be taken over?

Write below one directory, and end. Before the first byte is read it has no network, no other file system than that
directory, and of root's powers only those over owners and modes of files. Without root it runs as it is.
"""

from __future__ import annotations

import ctypes
import os
import resource
from pathlib import Path

_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 24, 38
_CLONE_NEWNS, _CLONE_NEWUTS, _CLONE_NEWIPC, _CLONE_NEWNET = 0x20000, 0x04000000, 0x08000000, 0x40000000
_CAPABILITY_VERSION_3 = 0x20080522
_KEPT = 0b11011
"""CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_FSETID: bits 0, 1, 3, 4 of capability.h."""
_LAST_CAPABILITY = 63
_MEMORY_BYTES = 2 * 1024**3

_libc = ctypes.CDLL(None, use_errno=True)


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Set(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def confine(root: Path) -> None:
    """
    Make `root` the whole world of this process and give up what unpacking doesn't need. For root only.

    Files opened before stay open. Raises OSError when the confinement doesn't hold.
    """
    # Not every container host lets root make namespaces; the change of root and the dropped powers are what counts.
    _libc.unshare(_CLONE_NEWNS | _CLONE_NEWUTS | _CLONE_NEWIPC | _CLONE_NEWNET)
    os.chroot(root)
    os.chdir("/")
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for capability in range(_LAST_CAPABILITY + 1):
        if not _KEPT >> capability & 1:
            _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)  # EINVAL for numbers this kernel doesn't know.
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    sets = (_Set * 2)(_Set(_KEPT, _KEPT, 0), _Set(0, 0, 0))
    _check(_libc.capset(ctypes.byref(_Header(_CAPABILITY_VERSION_3, 0)), ctypes.byref(sets)))


def sync_file_system(descriptor: int) -> None:
    """syncfs(2): everything written to the file system of `descriptor` is on disk. Raises OSError."""
    _check(_libc.syncfs(descriptor))


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
