"""
What does one tenant's app see of everybody else?

An `Attacker` is an app whose image holds `attacker/`; the probes in there are run inside by `shellwego exec`. What it
may find stands here; `ears.py` listens for whom it must not reach.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.cloud import RunningCloud, Said, eventually
from tests.e2e.ears import within
from tests.images import busybox_layout
from tests.registry import running_registry

SOURCE = Path(__file__).parent / "attacker"
RUNTIMES = ("gvisor", "runc")
MEMORY_MIB, PIDS, DISK_MIB = 128, 64, 64

VICTIM = "victim"
METADATA = ("169.254.169.254", "100.100.100.200", "192.0.0.192", "168.63.129.16", "fd00:ec2::254", "fe80::a9fe:a9fe")
"""Where clouds keep the credentials of a machine: most of them, Alibaba, Oracle, Azure, and by IPv6."""

CAPABILITIES = "00000000000004eb"
"""CHOWN, DAC_OVERRIDE, FOWNER, KILL, SETGID, SETUID, NET_BIND_SERVICE."""

OWN_KERNEL = {"unshare", "keyctl", "process_vm_readv", "syslog"}
"""System calls that gVisor's kernel, which is the sandbox's own, lets pass. What follows from them is tested beside."""

DEVICES = {f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty", "pts/ptmx", "console")}
OWN_DEVICES = {"/dev/fuse", "/dev/net/tun"}
"""gVisor shows them too; behind them is its own kernel, and no capability to use them."""

OWN_SETTINGS = re.compile(r"/proc/sys/(net/ipv4/|kernel/yama/|fs/(mount-max|nr_open))")
"""Of gVisor's own kernel, and network stack, for this sandbox alone."""

EXPECTED_ENVIRONMENT = re.compile(
    r"PATH|HOME|HOSTNAME|LANG|PORT|PYTHON\w+|SHELLWEGO_\w+|[A-Z_]*CERT\w*|\w+_CA_\w+|GPG_KEY"
)

CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

Findings = Mapping[str, Mapping[str, str]]
"""What each probe found, by its name."""


def deploy_victim(cloud: RunningCloud, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Somebody else's app. It is asked for all the time while its neighbours misbehave."""
    layout = busybox_layout(
        tmp_path_factory.mktemp("victim") / "layout",
        cmd=("sh", "-c", "exec httpd -f -p $PORT -h /srv"),
        files={"/srv/index.html": "unharmed\n"},
    )
    with running_registry(tmp_path_factory.mktemp("registry")) as registry:
        cloud.do("deploy", "--image", registry.push(layout, "victim:1"), "--name", VICTIM, "--wait")
    return VICTIM


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

    def look_around(self) -> Findings:
        """Everything that is looked at and tried without harm, in one go. `descriptors` first: later ones open some."""
        probes = (
            "descriptors", "processes", "environment", "mounts", "special_files", "paths", "status", "sockets",
            "routes", "readable", "writable", "mknod", "setuid", "syscalls", "own_kernel",
        )  # fmt: skip
        run = f"/run/shellwego/{self.cloud.short}"
        paths = [str(self.cloud.data), run, "/run/shellwego", "/run/netns", "/var/cache/shellwego"]
        return self.probe(*probes, paths=[path for path in paths if Path(path).exists()])

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


def json_lines(text: str) -> list[dict[str, str]]:
    """Not `splitlines`, which also cuts at characters that JSON may hold."""
    return [json.loads(line) for line in text.removesuffix("\n").split("\n")]


def events(cloud: RunningCloud, path: str, count: int) -> list[str]:
    """The texts of so many server-sent events, as a browser would take them apart."""
    found: list[str] = []
    with api_stream(cloud, path, accept="text/event-stream") as lines:
        for line in lines:
            name, _, value = line.partition(":")
            assert name in ("", "id", "event", "data", "retry"), line
            if name == "event":
                assert value.strip() == "log"
            if name == "data":
                found.append(json.loads(value)["text"])
            if len(found) == count:
                break
    return found


def tcp_settings(namespaces: list[Path | None]) -> list[str]:
    """Some of the kernel's, in each of these network namespaces (None: the host's)."""
    return [
        within(namespace, lambda name=name: Path("/proc/sys/net/ipv4", name).read_text())  # type: ignore[misc]
        for namespace in namespaces
        for name in ("ip_forward", "tcp_sack", "ip_local_port_range")
    ]
