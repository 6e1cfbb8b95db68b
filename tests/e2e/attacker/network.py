"""Who can be reached from inside an instance, and what of the network can be changed?"""

# System calls are meant here, by their names.
# ruff: noqa: PTH123

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import time
from typing import Any

from trying import tried, why


def reach(given: dict[str, Any]) -> dict[str, str]:
    """To each address and port, all at a time: `reached`, or why not."""
    found: dict[str, str] = {}
    with selectors.DefaultSelector() as waiting:
        targets = [(kind, *to) for kind in ("tcp", "udp", "icmp") for to in given.get(kind, [])]
        for kind, address, port in targets:
            name = f"{kind} {address} {port}"
            try:
                waiting.register(_knock(kind, address, port), selectors.EVENT_READ | selectors.EVENT_WRITE, name)
            except OSError as error:
                found[name] = why(error)
        until = time.monotonic() + given["seconds"]
        while waiting.get_map() and (left := until - time.monotonic()) > 0:
            for key, _ in waiting.select(left):
                word = _answer(key.fileobj)  # type: ignore[arg-type]
                if word == "sent":
                    waiting.modify(key.fileobj, selectors.EVENT_READ, key.data)
                else:
                    found[key.data] = word
                    waiting.unregister(key.fileobj)
                    key.fileobj.close()  # type: ignore[union-attr]
        for key in list(waiting.get_map().values()):
            found[key.data] = "TIMEOUT"
    return found


def _knock(kind: str, address: str, port: int) -> socket.socket:
    transport = socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    client = socket.socket(family, transport, socket.IPPROTO_ICMP if kind == "icmp" else 0)
    try:
        client.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            client.connect(socket.getaddrinfo(address, port, family)[0][4])
        if kind != "tcp":
            client.send(b"\x08\0\xf7\xfe\0\0\0\1" if kind == "icmp" else b"hello")
    except OSError:
        client.close()
        raise
    return client


def _answer(client: socket.socket) -> str:
    """What a socket that woke up has to say; `sent` if it only could be written to."""
    code = client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        return errno.errorcode[code]
    if client.type == socket.SOCK_STREAM:
        return "reached"
    try:
        return f"reached: {client.recv(64)!r}"
    except BlockingIOError:
        return "sent"
    except OSError as error:
        return why(error)


def resolve(given: dict[str, Any]) -> dict[str, str]:
    """Ask the resolver for a name: the number of the question comes back."""
    with open("/etc/resolv.conf") as file:
        server = file.read().split()[1]
    question = b"\x12\x67\x01\0\0\1\0\0\0\0\0\0\x09localhost\0\0\1\0\1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(10)
        client.sendto(question, (server, 53))
        return {"answer": str(int.from_bytes(client.recv(512)[:2], "big"))}


def unix(given: dict[str, Any]) -> dict[str, str]:
    """To each Unix socket; a name that begins with @ is an abstract one."""
    found = {}
    for path in given.get("unix", []):
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect("\0" + path[1:] if path.startswith("@") else path)
                found[path] = "reached"
        except OSError as error:
            found[path] = why(error)
    return found


def sockets(given: dict[str, Any]) -> dict[str, str]:
    """Sockets that would forge packets, listen to others', reach the hypervisor, or change the network."""
    kinds = {
        "raw ip": (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW),
        "raw icmp": (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
        "raw ipv6": (socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW),
        "packet": (socket.AF_PACKET, socket.SOCK_RAW, 0x0300),
        "cooked packet": (socket.AF_PACKET, socket.SOCK_DGRAM, 0x0300),
        "vsock": (40, socket.SOCK_STREAM, 0),
        "alg": (38, socket.SOCK_SEQPACKET, 0),
        "xdp": (44, socket.SOCK_RAW, 0),
    }
    return {name: tried(lambda kind=kind: socket.socket(*kind).close()) for name, kind in kinds.items()}


def routes(given: dict[str, Any]) -> dict[str, str]:
    """Changes of the network by netlink, as ip(8) asks for them."""

    def ask(kind: int, body: bytes) -> None:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as link:
            link.settimeout(3)
            link.bind((0, 0))
            length = (16 + len(body)).to_bytes(4, "little")
            link.send(length + kind.to_bytes(2, "little") + (5).to_bytes(2, "little") + bytes(8) + body)
            answer = link.recv(4096)
            code = -int.from_bytes(answer[16:20], "little", signed=True)
            if code:
                raise OSError(code, os.strerror(code))

    address = bytes([2, 24, 0, 0]) + (2).to_bytes(4, "little")  # ifaddrmsg: IPv4, /24, interface 2
    address += b"\x08\x00\x02\x00\x0a\x00\x00\x63" + b"\x08\x00\x01\x00\x0a\x00\x00\x63"
    link = bytes(4) + (2).to_bytes(4, "little") + bytes(4) + (1).to_bytes(4, "little")  # Interface 2 down.
    return {"add address": tried(lambda: ask(20, address)), "link down": tried(lambda: ask(16, link))}
