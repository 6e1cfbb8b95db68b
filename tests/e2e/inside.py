"""
What does one tenant's app see of everybody else?

An `Attacker` is an app whose image holds `attacker/probes.py`, run inside by `shellwego exec`. `Ears` are servers
outside, in any network namespace, that remember whoever reached them: what counts is not only that the attacker got no
answer, but that nobody heard it.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import selectors
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

from shellwego.drivers.network.namespaces import entered
from tests.e2e.cloud import RunningCloud, Said, eventually

T = TypeVar("T")

SOURCE = Path(__file__).parent / "attacker"
RUNTIMES = ("gvisor", "runc")
MEMORY_MIB, PIDS, DISK_MIB = 128, 64, 64

Findings = Mapping[str, Mapping[str, str]]
"""What each probe found, by its name."""


@dataclass(frozen=True, slots=True)
class Attacker:
    """One hostile app with one instance."""

    cloud: RunningCloud
    name: str
    runtime: str

    @classmethod
    def deploy(cls, cloud: RunningCloud, runtime: str) -> Attacker:
        name = f"attacker-{runtime}"
        limits = ("--memory", f"{MEMORY_MIB}m", "--pids", str(PIDS), "--disk", f"{DISK_MIB}m")
        cloud.do("deploy", str(SOURCE), "--name", name, "--runtime", runtime, *limits, "--wait")
        return cls(cloud, name, runtime)

    def try_probe(self, *probes: str, **given: object) -> Said:
        """Run them inside, whatever becomes of it."""
        words = json.dumps(given).encode()
        return self.cloud.run("exec", self.name, "--", "python", "/attacker/probes.py", *probes, stdin=words)

    def probe(self, *probes: str, **given: object) -> Findings:
        said = self.try_probe(*probes, **given)
        assert said.code == 0, said.err
        found: Findings = said.json
        return found

    def say(self, what: str) -> None:
        """Have the app itself do something, by a request."""
        assert self.cloud.get(self.name, f"/{what}", timeout=120).status == 200

    def instance(self) -> dict[str, Any]:
        """As `instances list` shows it."""
        found = call_api(self.cloud, f"/v1/instances?app={self.name}")["items"]
        return dict(next(one for one in found if one["goal"] == "run"))

    def until_healthy(self) -> dict[str, Any]:
        def healthy() -> dict[str, Any] | None:
            found = self.instance()
            return found if found["state"] == "healthy" else None

        return dict(eventually(f"{self.name} is healthy", healthy))

    def restore(self) -> None:
        """As if it had just been deployed, with no failure on its account."""
        self.cloud.do("apps", "restart", self.name, "--wait")
        self.until_healthy()


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


def call_api(cloud: RunningCloud, path: str) -> Any:
    """GET with the operator's token."""
    with api_stream(cloud, path) as lines:
        return json.loads("\n".join(lines))


@contextlib.contextmanager
def api_stream(cloud: RunningCloud, path: str, *, accept: str = "application/json") -> Iterator[Iterator[str]]:
    """The lines of an answer, as they come."""
    connection = http.client.HTTPConnection("127.0.0.1", cloud.api_port, timeout=60)
    token = (cloud.data / "admin-token").read_text().strip()
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}", "Accept": accept})
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        yield (line.decode().removesuffix("\n") for line in answer)
    finally:
        connection.close()


@contextlib.contextmanager
def unnoticed(cloud: RunningCloud, neighbour: str) -> Iterator[None]:
    """Meanwhile a neighbour is asked all the time; not one request may fail."""
    with cloud.load(neighbour, clients=2) as load:
        eventually("requests flow", lambda: load.sent > 10)
        yield
        sent = load.sent
        eventually("requests flow on", lambda: load.sent > sent + 10)
    assert load.failures == []


def data_plane(cloud: RunningCloud) -> Path:
    """The network namespace that all instances are plugged into."""
    return Path("/run/netns", f"swg-{cloud.short}")


def group_number(cloud: RunningCloud, instance: str, name: str) -> int:
    """A number that the kernel keeps of an instance's control group, in version 1 or 2 of the interface."""
    controller = name.partition(".")[0]
    roots = (Path("/sys/fs/cgroup", controller), Path("/sys/fs/cgroup"))
    group = next(path for root in roots if (path := root / "shellwego" / cloud.short / instance).is_dir())
    text = (group / name).read_text().strip()
    return -1 if text == "max" else int(text)


def layer_bytes(cloud: RunningCloud, instance: str) -> int:
    """How much of the host's disk an instance's own writes hold: in a file, or in one that has no name any more."""
    held: dict[tuple[int, int], int] = {}
    for path in cloud.data.glob(f"agent/*/*/{instance}*"):
        found = path.stat()
        held[found.st_dev, found.st_ino] = found.st_blocks * 512
    for link in _descriptors(cloud, instance):
        with contextlib.suppress(OSError):
            if str(link.readlink()).startswith(str(cloud.data / "agent")):
                found = link.stat()
                held[found.st_dev, found.st_ino] = found.st_blocks * 512
    return sum(held.values())


def _descriptors(cloud: RunningCloud, instance: str) -> Iterator[Path]:
    for root in (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")):
        group = root / "shellwego" / cloud.short / instance / "cgroup.procs"
        if group.exists():
            for pid in group.read_text().split():
                with contextlib.suppress(OSError):
                    yield from Path("/proc", pid, "fd").iterdir()


def log_bytes(cloud: RunningCloud, instance: str) -> int:
    """What an instance's logs hold of the host's disk."""
    total = 0
    for path in cloud.data.glob(f"agent/**/{instance}/*"):
        with contextlib.suppress(OSError):
            total += path.stat().st_size
    return total
