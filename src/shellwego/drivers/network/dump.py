"""What are all interfaces here called, for next to nothing?

An agent compares them to its filter every few seconds, for as long as it lives. pyroute2 decodes each attribute of each
interface, half a millisecond apiece; of these two are wanted, and they stand where rtnetlink(7) says.
"""

from __future__ import annotations

import errno
import os
import socket
import struct

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")  # rtattr: length, type
_INFO_BYTES = 16  # ifinfomsg
_GET_LINK, _NEW_LINK, _ERROR, _DONE = 18, 16, 2, 3
_REQUEST_DUMP, _INTERRUPTED = 0x301, 0x10
_NAME, _ALIAS, _EXT_MASK = 3, 20, 29
_SKIP_STATISTICS = 8
_RECEIVE_BYTES = 1 << 18
_TRIES = 10


def links() -> list[tuple[str, str]]:
    """Name and alias of every interface in the calling thread's network namespace. Raises OSError."""
    for _ in range(_TRIES):
        found = _dump()
        if found is not None:
            return found
    raise OSError(errno.EAGAIN, "the interfaces change faster than they can be listed")


def _dump() -> list[tuple[str, str]] | None:
    """None if one came or went meanwhile."""
    mask = _ATTRIBUTE.pack(8, _EXT_MASK) + struct.pack("=I", _SKIP_STATISTICS)
    request = bytes(_INFO_BYTES) + mask
    found: list[tuple[str, str]] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as netlink:
        netlink.send(_HEADER.pack(_HEADER.size + len(request), _GET_LINK, _REQUEST_DUMP, 1, 0) + request)
        while True:
            answer = netlink.recv(_RECEIVE_BYTES)
            at = 0
            while at < len(answer):
                length, kind, flags, _, _ = _HEADER.unpack_from(answer, at)
                if flags & _INTERRUPTED:
                    return None
                if kind == _DONE:
                    return found
                if kind == _ERROR:
                    code = -struct.unpack_from("=i", answer, at + _HEADER.size)[0]
                    raise OSError(code, os.strerror(code))
                if kind == _NEW_LINK:
                    found.append(_name_and_alias(answer, at + _HEADER.size + _INFO_BYTES, at + length))
                at += _aligned(length)


def _name_and_alias(message: bytes, at: int, end: int) -> tuple[str, str]:
    found = {_NAME: b"", _ALIAS: b""}
    while at < end:
        length, kind = _ATTRIBUTE.unpack_from(message, at)
        if kind in found:
            found[kind] = message[at + _ATTRIBUTE.size : at + length].rstrip(b"\0")
        at += _aligned(length)
    return found[_NAME].decode(), found[_ALIAS].decode(errors="replace")


def _aligned(length: int) -> int:
    return (length + 3) & ~3
