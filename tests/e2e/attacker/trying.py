"""How is something tried, and what is said of it? `ok`, or the name of the error."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from typing import Any

libc = ctypes.CDLL(None, use_errno=True)


def call(number: int, *arguments: Any) -> None:
    if libc.syscall(ctypes.c_long(number), *arguments) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def why(error: OSError) -> str:
    if isinstance(error, TimeoutError) and error.errno is None:
        return "TIMEOUT"
    return errno.errorcode.get(error.errno or 0, repr(error))


def tried(act: Callable[[], object]) -> str:
    try:
        act()
    except OSError as error:
        return why(error)
    return "ok"


def tried_in_a_child(act: Callable[[], object]) -> str:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, tried(act).encode())
        finally:
            os._exit(0)
    os.close(writer)
    said = os.read(reader, 256).decode()
    os.close(reader)
    _, end = os.waitpid(child, 0)
    return said or f"ended by signal {os.WTERMSIG(end)}"
