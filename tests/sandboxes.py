"""What do tests of sandboxes stand on?

A `World`: a runtime driver with folders, control groups and a network namespace whose names nobody else uses, and an
image of one static program. Leaving it checks that nothing of all that is left on the machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from shellwego.core.apps import Resources
from shellwego.core.ids import InstanceId, new_id
from shellwego.core.instances import ExitStatus
from shellwego.drivers.runtime.fake import FakeRuntime
from shellwego.drivers.runtime.gvisor import GVisorRuntime
from shellwego.drivers.runtime.port import ExecSession, Observed, Workload
from shellwego.drivers.runtime.runc import RuncRuntime
from tests.engines import engine

Runtime = FakeRuntime | GVisorRuntime | RuncRuntime

REAL = [pytest.param("gvisor", marks=pytest.mark.root), pytest.param("runc", marks=pytest.mark.root)]
SMALL = Resources(memory_mib=64, cpu_millis=1000, pids=64, disk_mib=32)
ENV = {"PATH": "/bin"}


@dataclass
class World:
    """One driver, and workloads for it."""

    kind: str
    cloud: str
    scratch: Path
    rootfs: Path
    namespace: Path
    driver: Runtime
    drivers: list[Runtime] = field(default_factory=list)

    def workload(self, *args: str, **changes: object) -> Workload:
        """A sandbox of the busybox image, asleep unless told otherwise."""
        id = InstanceId(new_id("instance", secrets.token_bytes))
        plain = Workload(
            id,
            self.rootfs,
            args or ("sleep", "1000"),
            ENV,
            self.namespace,
            self.scratch / "logs" / f"{id}.log",
            SMALL,
        )
        return replace(plain, **changes)  # type: ignore[arg-type]

    def script(self, text: str, **changes: object) -> Workload:
        return self.workload("sh", "-c", text, **changes)

    def restarted(self) -> Runtime:
        """A driver as a new agent has it: of the same places, knowing nothing."""
        if not isinstance(self.driver, FakeRuntime):
            self.driver.close()
            self.driver = make_driver(self.kind, self.scratch, self.cloud)
        return self.driver

    async def run(self, text: str, **changes: object) -> tuple[ExitStatus, str]:
        """Run a script to its end; how it ended and what it said. Nothing of it stays."""
        workload = self.script(text, **changes)
        await self.driver.ensure_running(workload)
        status = await self.ended(workload.id)
        await self.driver.ensure_absent(workload.id, grace_seconds=0)
        return status, said(workload)

    async def find(self, id: InstanceId) -> Observed | None:
        return next((o for o in await self.driver.observe() if o.id == id), None)

    async def ended(self, id: InstanceId, *, within_seconds: float = 60) -> ExitStatus:
        """Wait until the sandbox ended."""
        status: ExitStatus | None = None

        async def has_ended() -> bool:
            nonlocal status
            found = await self.find(id)
            status = found.exit if found else None
            return status is not None

        async with asyncio.timeout(within_seconds):
            while not await has_ended():  # noqa: ASYNC110 (another process's state)
                await asyncio.sleep(0.02)
        assert status is not None
        return status


def said(workload: Workload, stream: str = "stdout") -> str:
    """What the app wrote, put together from its log."""
    text = []
    for line in workload.log_path.read_bytes().decode(errors="replace").split("\n"):
        fields = line.split(" ", 3)
        if len(fields) == 4 and fields[1] == stream:
            text.append(fields[3] + ("\n" if fields[2] == "F" else ""))
    return "".join(text)


async def until(fact: Callable[[], bool], *, within_seconds: float = 30) -> None:
    """Wait for a fact. Raises TimeoutError."""
    async with asyncio.timeout(within_seconds):
        while not fact():  # noqa: ASYNC110 (another process's state)
            await asyncio.sleep(0.02)


async def output(session: ExecSession) -> tuple[bytes, bytes, int]:
    """Read a command to its end."""

    async def drain(read: Callable[[], object]) -> bytes:
        text = b""
        while chunk := await read():  # type: ignore[misc]
            text += chunk
        return text

    async with asyncio.timeout(60):
        out, err = await asyncio.gather(drain(session.read_stdout), drain(session.read_stderr))
        status = await session.wait()
    await session.close()
    return out, err, status


def make_busybox(rootfs: Path) -> Path:
    """An image of one program, with two users."""
    for folder in ("bin", "etc", "proc", "sys", "dev", "tmp", "run", "home/app", "data"):
        (rootfs / folder).mkdir(parents=True)
    shutil.copy(engine("busybox"), rootfs / "bin/busybox")
    applets = subprocess.run([rootfs / "bin/busybox", "--list"], capture_output=True, text=True, check=True).stdout
    for applet in applets.split():
        if applet != "busybox":
            (rootfs / "bin" / applet).symlink_to("busybox")
    (rootfs / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n")
    (rootfs / "etc/group").write_text("root:x:0:\nstaff:x:1001:\naudio:x:63:app,other\nvideo:x:44:other\n")
    (rootfs / "tmp").chmod(0o1777)
    os.chown(rootfs / "home/app", 1000, 1001)
    return rootfs


def fingerprint(root: Path) -> str:
    """A digest over names, kinds, owners, modes and contents of a tree."""
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        about = path.lstat()
        digest.update(f"{path.relative_to(root)} {about.st_mode} {about.st_uid} {about.st_gid}\n".encode())
        if path.is_symlink():
            digest.update(str(path.readlink()).encode())
        elif path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()


def make_driver(kind: str, scratch: Path, cloud: str) -> Runtime:
    if kind == "fake":
        return FakeRuntime(writes_logs=True)
    root, state, prefix = Path(f"/run/shellwego/{cloud}"), scratch / "state", f"shellwego/{cloud}"
    if kind == "runc":
        return RuncRuntime(runtime=engine("runc"), conmon=engine("conmon"), root=root, state=state, prefix=prefix)
    return GVisorRuntime(runtime=engine("runsc"), conmon=engine("conmon"), root=root, state=state, prefix=prefix)


@contextlib.asynccontextmanager
async def sandbox_world(kind: str, scratch: Path, rootfs: Path) -> AsyncIterator[World]:
    cloud = "t" + secrets.token_hex(4)[:7]
    driver = make_driver(kind, scratch, cloud)
    if isinstance(driver, FakeRuntime):
        yield World(kind, cloud, scratch, rootfs, scratch / "netns", driver)
        return
    with network_namespace(f"swgt-{cloud}") as namespace:
        world = World(kind, cloud, scratch, rootfs, namespace, driver)
        try:
            yield world
        finally:
            assert not isinstance(world.driver, FakeRuntime)
            await world.driver.remove_all()
            shutil.rmtree(f"/run/shellwego/{cloud}", ignore_errors=True)
    remains = find_remains(cloud, scratch)
    assert not remains, remains


@contextlib.contextmanager
def network_namespace(name: str):  # type: ignore[no-untyped-def]
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        yield Path("/run/netns") / name
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def find_remains(cloud: str, scratch: Path) -> dict[str, object]:
    """Whatever on this machine still bears the cloud's name."""
    found: Mapping[str, object] = {
        "mounts": [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if cloud in line],
        "groups": [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/shellwego/{cloud}")],
        "processes": [
            line for path in Path("/proc").glob("[0-9]*") if cloud in (line := f"{path.name} {_read(path / 'cmdline')}")
        ],
        "folders": [str(path) for path in Path("/run/shellwego").glob(cloud)],
        "loops": [
            path for loop in Path("/sys/block").glob("loop*/loop/backing_file") if str(scratch) in (path := _read(loop))
        ],
        "layers": [str(path) for path in (scratch / "state").rglob("*")],
    }
    return {key: value for key, value in found.items() if value}


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
