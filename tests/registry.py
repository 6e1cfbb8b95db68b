"""A real registry for tests: Debian's docker-registry on a free port of 127.0.0.1, filled with skopeo."""

from __future__ import annotations

import collections
import contextlib
import json
import re
import selectors
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.engines import engine

USERNAME, PASSWORD = "ali", "opensesame"
# bcrypt, the one scheme that docker-registry takes.
_HTPASSWD = "ali:$2y$05$abcdefghijklmnopqrstuuQbLfdQZSxZ9gjhA5V9o8Tyc6aQRO0Qi\n"
_START_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Registry:
    """A running registry. `address` is what stands before the first slash of a reference."""

    address: str
    directory: Path
    is_private: bool

    def push(self, layout: Path, name: str, *, format: str = "oci") -> str:
        """
        Push the image of an OCI layout as `name` ("app:1"), with manifests in the format `oci` or `v2s2` (Docker's).

        Returns the reference to pull it by.
        """
        reference = f"{self.address}/{name}"
        login = ["--dest-creds", f"{USERNAME}:{PASSWORD}"] if self.is_private else []
        tag = json.loads((layout / "index.json").read_text())["manifests"][0]["annotations"][
            "org.opencontainers.image.ref.name"
        ]
        program = [str(engine("skopeo")), "--insecure-policy", "copy", "--quiet", "--format", format]
        places = [f"oci:{layout}:{tag}", f"docker://{reference}"]
        subprocess.run(
            [*program, "--dest-tls-verify=false", *login, *places], check=True, capture_output=True, timeout=60
        )
        return reference


@contextlib.contextmanager
def running_registry(directory: Path, *, private: bool = False) -> Iterator[Registry]:
    """
    Run a registry that keeps its files in `directory` (which must exist) until the block ends.

    With `private` it wants USERNAME and PASSWORD (basic authentication) for everything.
    """
    settings: dict[str, object] = {
        "version": "0.1",
        "log": {"level": "info"},
        "storage": {"filesystem": {"rootdirectory": str(directory / "storage")}, "delete": {"enabled": True}},
        "http": {"addr": "127.0.0.1:0"},
    }
    if private:
        (directory / "htpasswd").write_text(_HTPASSWD)
        settings["auth"] = {"htpasswd": {"realm": "test", "path": str(directory / "htpasswd")}}
    configuration = directory / "registry.yml"
    configuration.write_text(json.dumps(settings))  # JSON is YAML.
    process = subprocess.Popen(
        [engine("docker-registry"), "serve", configuration],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={"PATH": "/usr/bin:/bin", "HOME": str(directory), "OTEL_TRACES_EXPORTER": "none"},
    )
    assert process.stderr is not None
    log = process.stderr
    reader: threading.Thread | None = None
    try:
        address = f"127.0.0.1:{_listening_port(process)}"
        # It logs every request; a pipe that nobody reads would stop it.
        reader = threading.Thread(target=lambda: collections.deque(log, maxlen=0), name="registry log")
        reader.start()
        yield Registry(address, directory, private)
    finally:
        process.kill()
        process.wait()
        if reader is not None:
            reader.join()
        log.close()


def _listening_port(process: subprocess.Popen[bytes]) -> int:
    """The port that the registry says it listens on: nobody can take it between a look and a bind."""
    assert process.stderr is not None
    deadline = time.monotonic() + _START_SECONDS
    said = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stderr, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0 and selector.select(left):
            said += process.stderr.read1(65536)  # type: ignore[attr-defined]
            if found := re.search(rb"listening on 127\.0\.0\.1:(\d+)", said):
                return int(found[1])
            if process.poll() is not None:
                break
    raise AssertionError(f"docker-registry did not start: {said.decode(errors='replace')[-2000:]}")
