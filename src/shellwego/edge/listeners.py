"""Who holds the listening sockets, so that no connection is ever refused?

The edge opens them in the host's namespace and keeps them open beside HAProxy, which inherits them: while HAProxy is
dead, connections wait in the kernel's backlog. When the edge itself was killed and comes back, it takes the sockets
of the running HAProxy again, by pidfd_getfd(2), instead of opening others.
"""

from __future__ import annotations

import ctypes
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from shellwego.core.errors import Conflict

_PIDFD_GETFD = 438  # the same on every architecture
_BACKLOG = 4096

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Listeners:
    """Both sockets; None for a port that is off."""

    http: socket.socket | None
    https: socket.socket | None

    def close(self) -> None:
        for listener in (self.http, self.https):
            if listener is not None:
                listener.close()


def open_listeners(address: str, http_port: int, https_port: int) -> Listeners:
    """New sockets on that address; port 0 is off. Raises Conflict when a port is taken."""
    http = _open(address, http_port) if http_port else None
    try:
        https = _open(address, https_port) if https_port else None
    except BaseException:
        if http is not None:
            http.close()
        raise
    return Listeners(http, https)


def take_listeners(pid: int, address: str, http_port: int, https_port: int) -> Listeners | None:
    """
    The sockets of a running process that listen on exactly these ports, as descriptors of our own. None if it has
    not all of them, or the kernel doesn't let us.
    """
    wanted = {port for port in (http_port, https_port) if port}
    found: dict[int, socket.socket] = {}
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return None
    try:
        numbers = sorted(int(entry) for entry in os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - names are numbers
        for number in numbers:
            if len(found) == len(wanted):
                break
            if not _is_socket(pid, number):
                continue
            duplicate = _libc.syscall(_PIDFD_GETFD, pidfd, number, 0)
            if duplicate < 0:
                continue
            candidate = socket.socket(fileno=duplicate)
            port = _listening_port(candidate, address)
            if port in wanted and port not in found:
                found[port] = candidate
            else:
                candidate.close()
    except OSError:
        pass  # It ended while we looked; what was found is judged below.
    finally:
        os.close(pidfd)
    if set(found) != wanted:
        for taken in found.values():
            taken.close()
        return None
    return Listeners(found.get(http_port), found.get(https_port))


def _open(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind((address, port))
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise Conflict(
            f"Port {port} on {address} can't be opened: {error.strerror}. Another program may hold it; choose others "
            "with --http-port and --https-port."
        ) from error
    return listener


def _is_socket(pid: int, number: int) -> bool:
    try:
        return str(Path(f"/proc/{pid}/fd/{number}").readlink()).startswith("socket:")
    except OSError:
        return False


def _listening_port(candidate: socket.socket, address: str) -> int | None:
    if candidate.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    if not candidate.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return None
    name = candidate.getsockname()
    return name[1] if name[0] == address else None
