"""What does ShellWeGo do, shown in one go? (`make demo`)

Starts a cloud of its own in a temporary directory, on free ports of the loopback address; builds and deploys the
examples; replaces a version under load; rolls back; prints what it measured; stops everything and looks whether
anything is left. It uses the command line as anybody would.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import typer

from shellwego.kit.load import Target, constant_load
from shellwego.kit.ports import free_ports
from shellwego.processes.cloud import RUNTIME_ROOT, load_cloud
from shellwego.processes.host_command import need_root

EXAMPLES = ("flask", "node", "static", "dockerfile")
START_SECONDS = 900.0
"""The first start on a machine makes the base images."""


@dataclass(slots=True)
class Demo:
    data: Path
    examples: Path
    api_port: int
    http_port: int
    https_port: int
    rows: list[tuple[str, str]] = field(default_factory=list)

    def note(self, what: str, value: str) -> None:
        self.rows.append((what, value))

    def shellwego(self, *arguments: str, quiet: bool = True) -> str:
        """The command line, with this cloud's address and token. Its talk goes to the terminal unless `quiet`."""
        typer.secho(f"  $ shellwego {' '.join(arguments)}", dim=True, err=True)
        done = subprocess.run(
            (sys.executable, "-m", "shellwego.processes.main", *arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if quiet else None,
            check=False,
            env={
                **os.environ,
                "SHELLWEGO_URL": f"http://127.0.0.1:{self.api_port}",
                "SHELLWEGO_TOKEN": (self.data / "admin-token").read_text().strip(),
            },
        )
        if done.returncode != 0:
            said = (done.stderr or b"").decode(errors="replace")
            raise DemoFailed(f"`shellwego {' '.join(arguments)}` ended with {done.returncode}. {said}")
        return done.stdout.decode()

    def get(self, name: str, path: str = "/") -> tuple[int, str]:
        """GET through the proxy; status and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=30)
        with contextlib.closing(connection):
            connection.request("GET", path, headers={"Host": f"{name}.localhost"})
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace")


class DemoFailed(Exception):
    """Something that the demo promises did not come true."""


def main() -> None:
    """Run the demo. Ends with 1 when anything that it shows isn't so."""
    need_root("The demo runs a cloud")
    began = time.monotonic()
    examples = Path.cwd() / "examples"
    with tempfile.TemporaryDirectory(prefix="shellwego-demo-") as directory:
        api_port, http_port, https_port = free_ports(3)
        demo = Demo(Path(directory) / "cloud", examples, api_port, http_port, https_port)
        try:
            with _cloud(demo):
                _show(demo)
            _look_for_leftovers(demo)
        except (DemoFailed, OSError) as error:
            typer.secho(f"\nThe demo failed: {error}", fg="red", err=True)
            raise SystemExit(1) from None
    demo.note("everything, start to clean", f"{time.monotonic() - began:.0f} s")
    width = max(len(what) for what, _ in demo.rows)
    typer.echo("\nMeasured here, just now:\n")
    for what, value in demo.rows:
        typer.echo(f"  {what.ljust(width)}  {value}")
    typer.echo("\nNothing of the demo is left. `make up` starts a cloud that stays.")


def _show(demo: Demo) -> None:
    for name in EXAMPLES:
        if not (demo.examples / name).is_dir():
            continue
        _say(f"Build and deploy examples/{name}")
        took = _timed(lambda name=name: demo.shellwego("deploy", str(demo.examples / name), "--name", name, "--wait"))
        status, body = demo.get(name)
        if status != 200:
            raise DemoFailed(f"{name} answers {status}: {body[:200]}")
        demo.note(f"{name}: source folder to first answer", f"{took:.1f} s")
        _say(f"  http://{name}.localhost:{demo.http_port} answers: {' '.join(body.split())[:70]}")

    _say("Three instances, then a new version under constant load")
    demo.shellwego("scale", "flask", "web=3", "--wait")
    target = Target("127.0.0.1", demo.http_port, "/", {"Host": "flask.localhost"})
    with constant_load(target) as load:
        took = _timed(lambda: demo.shellwego("config", "set", "flask", "VERSION=2", "--wait"))
    demo.note("new version of 3 instances", f"{took:.1f} s")
    demo.note("requests meanwhile / failed", f"{load.sent} / {len(load.failures)}")
    demo.note("p99 meanwhile", f"{load.p99_seconds * 1000:.0f} ms")
    if load.failures:
        raise DemoFailed(f"{len(load.failures)} requests failed during the deploy: {load.failures[0]}")

    _say("Roll back to the version before, under load too")
    with constant_load(target) as load:
        took = _timed(lambda: demo.shellwego("rollback", "flask", "--wait"))
    demo.note("rollback of 3 instances", f"{took:.1f} s")
    demo.note("requests meanwhile / failed", f"{load.sent} / {len(load.failures)}")
    if load.failures:
        raise DemoFailed(f"{len(load.failures)} requests failed during the rollback: {load.failures[0]}")
    typer.echo(demo.shellwego("instances", "list"))


@contextlib.contextmanager
def _cloud(demo: Demo) -> Iterator[None]:
    """A cloud for the block, ended by Ctrl-C's signal as a person would."""
    _say("Start a cloud")
    began = time.monotonic()
    up = subprocess.Popen(
        (
            *(sys.executable, "-m", "shellwego.processes.main", "up"),
            *("--data-dir", str(demo.data), "--domain", "localhost", "--api-port", str(demo.api_port)),
            *("--http-port", str(demo.http_port), "--https-port", str(demo.https_port)),
        ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,  # What to type next is for a cloud that stays.
        start_new_session=True,  # Our own Ctrl-C is passed on below, once, not twice.
    )
    try:
        _wait_until_up(demo, up)
        demo.note("start of the cloud", f"{time.monotonic() - began:.1f} s")
        yield
    finally:
        _say("Stop everything")
        if up.poll() is None:
            up.send_signal(signal.SIGINT)
        up.wait(timeout=120)


def _wait_until_up(demo: Demo, up: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if up.poll() is not None:
            raise DemoFailed(f"`shellwego up` ended with {up.returncode}.")
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", demo.api_port, timeout=5)
            with contextlib.closing(connection):
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    return
        time.sleep(0.2)
    raise DemoFailed(f"the cloud did not come up within {START_SECONDS:g} s")


def _look_for_leftovers(demo: Demo) -> None:
    """What is left on the host that carries the demo's name."""
    cloud = load_cloud(demo.data)
    done = subprocess.run(
        (
            *(sys.executable, "-m", "shellwego.processes.main", "uninstall"),
            *("--data-dir", str(demo.data), "--yes"),
        ),
        stdin=subprocess.DEVNULL,
        check=False,
    )
    left = [*Path("/run/netns").glob(f"{cloud.prefix}*"), *RUNTIME_ROOT.glob(cloud.short)]
    left += [
        Path(line.split()[4]) for line in Path("/proc/self/mountinfo").read_text().splitlines() if cloud.short in line
    ]
    if done.returncode != 0 or left:
        raise DemoFailed(f"uninstall left {', '.join(map(str, left)) or 'something'} behind")
    shutil.rmtree(demo.data, ignore_errors=True)


def _timed(act: object) -> float:
    began = time.monotonic()
    assert callable(act)
    act()
    return time.monotonic() - began


def _say(text: str) -> None:
    typer.secho(text, bold=not text.startswith(" "), err=True)


if __name__ == "__main__":
    main()
