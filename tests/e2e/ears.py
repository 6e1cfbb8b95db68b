"""
Who hears of it, when a tenant reaches for what isn't theirs?

`Ears` are servers outside, in any network namespace, that remember whoever reached them: what counts is not only that
the attacker got no answer, but that nobody heard it.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread
from typing import TypeVar

from shellwego.drivers.network.namespaces import entered
from tests.e2e.cloud import RunningCloud

T = TypeVar("T")


class Ears:
    """Servers for TCP and UDP that answer `heard`, and remember by name who did."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self._selector = selectors.DefaultSelector()
        self._sockets: list[socket.socket] = []
        self._stop, wake = socket.socketpair()
        self._sockets += [self._stop, wake]
        self._selector.register(wake, selectors.EVENT_READ, None)
        self._thread = Thread(target=self._listen, name="ears")
        self._thread.start()

    def listen(self, name: str, address: str, *, namespace: Path | None = None) -> int:
        """Listen at an address, for both protocols on one port, and say which."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET

        def both() -> tuple[socket.socket, socket.socket]:
            tcp = socket.create_server((address, 0), family=family, dualstack_ipv6=address == "::", backlog=64)
            udp = socket.socket(family, socket.SOCK_DGRAM)
            if family == socket.AF_INET6:
                udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            udp.bind((address, tcp.getsockname()[1]))
            return tcp, udp

        tcp, udp = within(namespace, both)
        self._add(f"{name} tcp", tcp)
        self._add(f"{name} udp", udp)
        return int(tcp.getsockname()[1])

    def listen_unix(self, name: str, address: str) -> None:
        server = socket.socket(socket.AF_UNIX)
        server.bind(address)
        server.listen(8)
        self._add(f"{name} unix", server)

    def close(self) -> None:
        self._stop.close()
        self._thread.join(timeout=10)
        self._selector.close()
        for one in self._sockets:
            one.close()

    def _add(self, name: str, one: socket.socket) -> None:
        one.setblocking(False)
        self._sockets.append(one)
        self._selector.register(one, selectors.EVENT_READ, name)

    def _listen(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    return
                self.heard.append(key.data)
                one = key.fileobj
                assert isinstance(one, socket.socket)
                with contextlib.suppress(OSError):
                    if one.type == socket.SOCK_DGRAM:
                        one.sendto(b"heard", one.recvfrom(2048)[1])
                    else:
                        with one.accept()[0] as connection:
                            connection.sendall(b"heard")


def within(namespace: Path | None, act: Callable[[], T]) -> T:
    """Do something inside a network namespace. What is opened there stays there."""
    if namespace is None:
        return act()

    def inside() -> T:
        with entered(namespace):
            return act()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(inside).result()


def knock(address: str, port: int, *, namespace: Path | None = None) -> bool:
    """Whether an ear answers there, asked from that namespace by TCP and by UDP."""

    def ask() -> bool:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            with socket.socket(family, kind) as client:
                client.settimeout(10)
                client.connect((address, port))
                if kind == socket.SOCK_DGRAM:
                    client.send(b"hello")
                if client.recv(16) != b"heard":
                    return False
        return True

    return within(namespace, ask)


def host_addresses() -> list[str]:
    """Every address of the host's that isn't loopback or link-local."""
    shown = subprocess.run(("ip", "-json", "address", "show"), capture_output=True, check=True, timeout=20).stdout
    return [
        one["local"] for link in json.loads(shown) for one in link["addr_info"] if one["scope"] not in ("host", "link")
    ]


def data_plane(cloud: RunningCloud) -> Path:
    """The network namespace that all instances are plugged into."""
    return Path("/run/netns", f"swg-{cloud.short}")


def listen_where_no_tenant_may_come(cloud: RunningCloud, ears: Ears, **namespaces: Path) -> dict[str, int]:
    """Ports on the host, in the data plane and in these namespaces, each there for whoever may reach it."""
    ports = {
        "loopback": ears.listen("the host's loopback", "127.0.0.1"),
        "host": ears.listen("the host", "::"),
        "data plane": ears.listen("the data plane", "0.0.0.0", namespace=data_plane(cloud)),
    }
    assert knock("127.0.0.1", ports["loopback"])
    assert all(knock(address, ports["host"]) for address in host_addresses())
    # Through the same way out as instances have: all that stands between is the filter.
    assert knock(host_addresses()[0], ports["host"], namespace=data_plane(cloud))
    assert knock("127.0.0.1", ports["data plane"], namespace=data_plane(cloud))
    for name, namespace in namespaces.items():
        ports[name] = ears.listen(f"the {name}", "0.0.0.0", namespace=namespace)
        assert knock("127.0.0.1", ports[name], namespace=namespace)
    return ports
