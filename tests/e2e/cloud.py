"""A real cloud for one test module: `shellwego up` as an operator starts it, and the command line as people type it."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shellwego.kit.load import Load, Target, constant_load
from shellwego.kit.ports import free_ports
from shellwego.kit.processes import start_time

PATIENCE_SECONDS = 120.0


def eventually(what: str, fact: Callable[[], Any], *, seconds: float = PATIENCE_SECONDS) -> Any:
    """Wait for a fact; fail with its name when it doesn't come true."""
    deadline = time.monotonic() + seconds
    last: object = None
    while time.monotonic() < deadline:
        try:
            last = fact()
            if last:
                return last
        except (OSError, http.client.HTTPException, AssertionError) as error:
            last = error
        time.sleep(0.1)
    raise AssertionError(f"waited {seconds:g} s for: {what}; last seen: {last!r}")


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: str
    headers: http.client.HTTPMessage
    """By name, in capitals or not."""


@dataclass(slots=True)
class Said:
    """What a command printed and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(slots=True)
class RunningCloud:
    data: Path
    domain: str = "localhost"
    api_port: int = field(default_factory=lambda: free_ports(1)[0])
    http_port: int = field(default_factory=lambda: free_ports(1)[0])
    https_port: int = field(default_factory=lambda: free_ports(1)[0])
    options: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    """What `up` finds in its environment besides our own."""
    log: Path | None = None
    """What `up` says; beside the data unless another place is given."""
    process: subprocess.Popen[bytes] | None = None
    _short: str = ""

    # --- the operator ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        log = self.up_log.open("ab")
        self.process = subprocess.Popen(
            (
                *shellwego(),
                "up",
                *("--data-dir", str(self.data), "--domain", self.domain, "--api-port", str(self.api_port)),
                *("--http-port", str(self.http_port), "--https-port", str(self.https_port)),
                *self.options,
            ),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **self.env},
            start_new_session=True,
        )
        log.close()
        eventually("the cloud is up", self.is_up, seconds=300)

    def is_up(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            log = self.up_log.read_text()
            raise RuntimeError(f"`shellwego up` ended with {self.process.returncode}:\n{log[-4000:]}")
        connection = http.client.HTTPConnection("127.0.0.1", self.api_port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        finally:
            connection.close()

    def stop(self) -> int:
        """Ctrl-C, and wait for the end."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        code = self.process.wait(timeout=90)
        self.process = None
        return code

    def pids(self, name: str) -> list[int]:
        """Processes of this cloud by role: server, agent, edge, haproxy, up."""
        assert self.process is not None
        if name == "up":
            return [self.process.pid]
        # The edge's own arguments name the proxy's program too: only the first word says what a process is.
        needle = f"shellwego.processes.main {name} "
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            is_it = "haproxy" in command.split(" ")[0] if name == "haproxy" else needle in command
            if is_it and (str(self.data) in command or self.short in command):
                found.append(int(entry.name))
        return found

    def kill(self, *names: str) -> None:
        """SIGKILL, as the kernel's OOM killer would, and wait until they are gone."""
        pids = [pid for name in names for pid in self.pids(name)]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        eventually("they are gone", lambda: all(start_time(pid) is None for pid in pids))

    @property
    def up_log(self) -> Path:
        return self.log or self.data.parent / f"{self.data.name}.up.log"

    @property
    def short(self) -> str:
        if not self._short:  # Remembered, since the disk may be taken away.
            identity = json.loads((self.data / "cloud.json").read_text())
            self._short = str(identity["cloud"]).split("_")[1][:8]
        return self._short

    @property
    def token(self) -> str:
        return (self.data / "admin-token").read_text().strip()

    # --- the developer --------------------------------------------------------------------------------------------

    def run(
        self,
        *arguments: str,
        stdin: bytes | None = None,
        timeout: float = 300,
        token: str | None = None,
        env: dict[str, str] | None = None,
    ) -> Said:
        """`shellwego ARGUMENTS`, whatever comes of it."""
        done = subprocess.run(
            (*shellwego(), *arguments),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            timeout=timeout,
            check=False,
            env={
                **os.environ,
                "SHELLWEGO_URL": f"http://127.0.0.1:{self.api_port}",
                "SHELLWEGO_TOKEN": token or self.token,
                "NO_COLOR": "1",
                **(env or {}),
            },
        )
        return Said(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))

    def do(self, *arguments: str, **options: Any) -> Said:
        """`shellwego ARGUMENTS`, which must succeed."""
        said = self.run(*arguments, **options)
        assert said.code == 0, f"shellwego {' '.join(arguments)} ended with {said.code}:\n{said.out}\n{said.err}"
        return said

    def json(self, *arguments: str) -> Any:
        return self.do(*arguments, "-o", "json").json

    def ask(self, method: str, path: str, body: object = None, *, token: str | None = None) -> Answer:
        """One request to the API, without a client's patience."""
        content = None if body is None else json.dumps(body).encode()
        return self._ask(method, path, content, "application/json", token or self.token)

    def upload(self, app: str, size: int) -> Answer:
        """A source of so many bytes, likewise."""
        return self._ask(
            "POST", f"/v1/apps/{app}/sources", b"\x1f\x8b" + os.urandom(size), "application/gzip", self.token
        )

    def _ask(self, method: str, path: str, body: bytes | None, kind: str, token: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.api_port, timeout=60)
        headers = {"Authorization": f"Bearer {token}"}
        if body is not None:
            headers["Content-Type"] = kind
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return Answer(answer.status, answer.read().decode(), answer.headers)
        finally:
            connection.close()

    # --- the world ------------------------------------------------------------------------------------------------

    def get(self, name: str, path: str = "/", *, timeout: float = 15) -> Answer:
        """GET through the proxy, as a browser would."""
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=timeout)
        try:
            connection.request("GET", path, headers={"Host": f"{name}.{self.domain}"})
            answer = connection.getresponse()
            return Answer(answer.status, answer.read().decode(errors="replace"), answer.headers)
        finally:
            connection.close()

    @contextmanager
    def load(self, name: str, path: str = "/", *, clients: int = 4) -> Iterator[Load]:
        """Constant load on an app meanwhile."""
        host = {"Host": f"{name}.{self.domain}"}
        with constant_load(Target("127.0.0.1", self.http_port, path, host), clients=clients) as load:
            yield load


def shellwego() -> tuple[str, ...]:
    return (sys.executable, "-m", "shellwego.processes.main")


def instance_in(line: str) -> str | None:
    """The instance that a line of the inventory belongs to, if it belongs to one."""
    found = re.search(r"(?:ins_|swg-[a-z2-7]{8}-)([a-z2-7]{20})(?![a-z2-7])", line)
    return found[1] if found else None


def problems(cloud: RunningCloud) -> list[str]:
    """What `status` tells the operator is wrong."""
    found: list[str] = cloud.json("status")["problems"]
    return found


def is_well(cloud: RunningCloud) -> bool:
    assert problems(cloud) == []
    return True
