"""What do the figures share?

A scratch directory, one cloud that is started when the first figure needs it, and the rule that whatever was started
ends with the run: at its end, at Ctrl-C and at SIGTERM.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e.cloud import RunningCloud

from benches.measure import first_200

DOMAIN = "bench.test"
"""With a dot in it, so that one wildcard certificate serves every host."""
EXAMPLES = Path(__file__).parents[1] / "examples"


@dataclass
class Bench:
    """`quick` halves the turns: to try a figure, not to publish it."""

    directory: Path
    stack: ExitStack
    """Of the whole run."""
    own: ExitStack
    """Of the figure that is measured now."""
    quick: bool = False
    notes: list[str] = field(default_factory=list)
    _cloud: CloudUnderTest | None = None

    def turns(self, wanted: int) -> int:
        return max(1, wanted // 2) if self.quick else wanted

    def say(self, text: str) -> None:
        print(f"  {text}", flush=True)

    def note(self, text: str) -> None:
        """Something a reader of the table must know."""
        if text not in self.notes:
            self.notes.append(text)
            self.say(f"note: {text}")

    def cloud(self) -> CloudUnderTest:
        """The one-node cloud of this run."""
        if self._cloud is None:
            self.say("starting a cloud")
            running = RunningCloud(self.directory / "cloud", domain=DOMAIN)
            self.stack.callback(_remove, running)
            running.start()
            self._cloud = CloudUnderTest(running)
        return self._cloud

    def spawn(
        self, command: Sequence[str | Path], *, cpu: int | None = None, output: str = "spawned", **options: Any
    ) -> subprocess.Popen[bytes]:
        """A process that ends with the run."""
        pin = ("taskset", "-c", str(cpu)) if cpu is not None and (os.cpu_count() or 1) > 1 else ()
        with (self.directory / f"{output}.log").open("ab") as log:
            process = subprocess.Popen(
                [*pin, *map(str, command)], stdin=subprocess.DEVNULL, stdout=log, stderr=log, **options
            )
        self.own.callback(end, process)
        return process


@dataclass
class CloudUnderTest:
    """The shared cloud, spoken to over its API: the command line is part of a figure only where it says so."""

    running: RunningCloud
    _images: dict[str, str] = field(default_factory=dict)

    def call(self, method: str, path: str, body: object = None) -> Any:
        token = (self.running.data / "admin-token").read_text().strip()
        connection = http.client.HTTPConnection("127.0.0.1", self.running.api_port, timeout=60)
        try:
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            answer = connection.getresponse()
            text = answer.read()
            if answer.status >= 400:
                raise RuntimeError(f"{method} {path}: {answer.status} {text.decode()[:500]}")
            return json.loads(text) if text else None
        finally:
            connection.close()

    def image(self, example: str) -> str:
        """The digest of an example's image, built at the first use; the app `built-EXAMPLE` holds it."""
        if example not in self._images:
            self.running.do("deploy", str(EXAMPLES / example), "--name", f"built-{example}", "--wait", timeout=600)
            releases = self.call("GET", f"/v1/apps/built-{example}/releases")["items"]
            self._images[example] = releases[0]["image"]
        return self._images[example]

    def deploy_image(self, app: str, image: str, **more: object) -> None:
        """Make the app and begin a deployment; returns when both are accepted."""
        self.call("POST", "/v1/apps", {"name": app})
        self.call("POST", f"/v1/apps/{app}/deployments", {"image": image, **more})

    async def answers(self, app: str, path: str = "/", *, seconds: float = 120, body: str = "") -> float:
        return await first_200(self.running.http_port, f"{app}.{DOMAIN}", path, seconds=seconds, body=body)

    def delete(self, app: str) -> None:
        self.call("DELETE", f"/v1/apps/{app}")

    def pids(self, *names: str) -> list[int]:
        return [pid for name in names for pid in self.running.pids(name)]

    def apps(self) -> list[Any]:
        return self._all("/v1/apps")

    def healthy(self, prefix: str) -> int:
        """How many instances of apps whose name begins so are healthy and meant to run."""
        found = (i for i in self._all("/v1/instances") if i["app_name"].startswith(prefix))
        return sum(i["state"] == "healthy" and i["goal"] == "run" for i in found)

    def instances(self, prefix: str) -> list[str]:
        """Ids of the instances of apps whose name begins so."""
        return [i["id"] for i in self._all("/v1/instances") if i["app_name"].startswith(prefix)]

    def _all(self, path: str) -> list[Any]:
        """Over all pages."""
        found: list[Any] = []
        cursor = ""
        while True:
            page = self.call("GET", f"{path}?limit=100{cursor}")
            found += page["items"]
            if not page.get("next_cursor"):
                return found
            cursor = f"&cursor={page['next_cursor']}"


def begin(stack: ExitStack, *, quick: bool) -> Bench:
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="swg-bench-", ignore_cleanup_errors=True)))
    directory.chmod(0o755)  # HAProxy gives up being root, and reads below it.
    return Bench(directory, stack, stack, quick)


def end(process: subprocess.Popen[bytes], *, grace_seconds: float = 5) -> None:
    """SIGTERM, then SIGKILL."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=grace_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _remove(running: RunningCloud) -> None:
    """Ctrl-C for the cloud, then nothing of it may be left. Also for one that never came up."""
    print("  removing the cloud", flush=True)
    if running.process is not None:
        running.stop()
    if (running.data / "cloud.json").exists():
        removed = running.run("uninstall", "--data-dir", str(running.data), "--yes", token="none", timeout=180)
        if removed.code != 0:
            print(f"  uninstall failed: {removed.err}", flush=True)


def api_environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), **(more or {})}


def now() -> float:
    return time.perf_counter()
