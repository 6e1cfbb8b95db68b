"""What must a runtime do, whichever sandbox it is?

Three verbs, each safe to repeat, keep sandboxes as they should be; `exec` enters one. Everything about a sandbox is
observable from the host after the caller was killed and started again: the driver keeps no state in memory that
matters. `tests/contract/test_runtime.py` holds every driver, and the fake, to this page.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from shellwego.core.apps import Resources
from shellwego.core.ids import InstanceId
from shellwego.core.instances import ExitStatus


@dataclass(frozen=True, slots=True)
class Workload:
    """
    One sandbox to run. `rootfs` is shared and never written to: the sandbox gets a private writable layer of at
    most `resources.disk_mib`. `files` are small files put over the image's own, read-only (resolv.conf, hosts, CA
    certificates); like the environment they may hold secrets, so a driver keeps them on tmpfs only.

    `log_path` receives stdout and stderr in the format of the Kubernetes CRI (`RFC3339Nano stdout|stderr F|P text`),
    whoever is alive meanwhile. `user` is as in an image configuration: name, uid, or either with `:group`; it is
    resolved inside the rootfs.
    """

    id: InstanceId
    rootfs: Path
    args: tuple[str, ...]
    env: Mapping[str, str]
    network_namespace: Path
    log_path: Path
    resources: Resources = field(default_factory=Resources)
    cwd: str = "/"
    user: str = "0:0"
    hostname: str = "app"
    files: Mapping[str, bytes] = field(default_factory=dict)
    host_sockets: bool = False
    """gVisor only: use the kernel's network stack of `network_namespace` instead of gVisor's own."""


@dataclass(frozen=True, slots=True)
class Observed:
    """One sandbox as it is. `exit` is set once it ended; `started_at` is seconds since the epoch."""

    id: InstanceId
    running: bool
    started_at: float | None = None
    exit: ExitStatus | None = None


class ExecSession(Protocol):
    """A command inside a sandbox. Reads return b"" at the end; `wait` returns its exit status (128+n for signal n)."""

    async def read_stdout(self) -> bytes: ...
    async def read_stderr(self) -> bytes:
        """Always at its end when there is a terminal: a terminal has one output."""
        ...

    async def write_stdin(self, data: bytes) -> None: ...
    async def close_stdin(self) -> None: ...
    async def resize(self, *, columns: int, rows: int) -> None: ...
    async def kill(self, signal: int) -> None: ...
    async def wait(self) -> int: ...
    async def close(self) -> None:
        """End the command if it still runs, and free all it held. Safe to repeat."""
        ...


class RuntimeDriver(Protocol):
    """Every method may raise EngineMissing, and DiskFull where it writes."""

    name: str

    async def ensure_running(self, workload: Workload) -> None:
        """
        The sandbox runs when this returns; one of the same id that runs already is left alone, the remains of one
        that ended (or was half made) are cleared first. Raises StartFailed with the reason in a user's words.
        """
        ...

    async def ensure_absent(self, id: InstanceId, *, grace_seconds: float) -> None:
        """SIGTERM to its first process, SIGKILL to all after the grace time; then nothing of it is left but its log."""
        ...

    async def observe(self) -> Collection[Observed]:
        """Every sandbox of this driver on this node, running or ended and not yet removed."""
        ...

    async def exec(
        self,
        id: InstanceId,
        args: tuple[str, ...],
        *,
        tty: bool,
        env: Mapping[str, str],
        columns: int = 80,
        rows: int = 24,
    ) -> ExecSession:
        """Run a command inside, with the sandbox's user, environment and directory. Raises NotFound, StartFailed."""
        ...

    async def reopen_log(self, id: InstanceId) -> None:
        """After its log file was renamed: write to a new one of the old name. Nothing is lost in between."""
        ...
