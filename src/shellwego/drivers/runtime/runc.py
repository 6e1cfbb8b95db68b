"""How do we run what the operator trusts? In runc: on the host's own kernel, at its full speed.

The same limits as for strangers, and seccomp on top, since here the kernel is shared. The writable layer is a small
file system in a sparse file (layers.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shellwego.core.ids import InstanceId
from shellwego.drivers.runtime import layers, mounts, seccomp
from shellwego.drivers.runtime.bundle import Bundle
from shellwego.drivers.runtime.port import Workload
from shellwego.drivers.runtime.sandboxes import OciRuntime
from shellwego.kit.commands import Command


class RuncRuntime(OciRuntime):
    """A RuntimeDriver over runc."""

    name = "runc"

    def _create_args(self, workload: Workload) -> tuple[str, ...]:
        return self._args

    async def _mount_rootfs(self, workload: Workload, bundle: Bundle) -> None:
        file = self._places.layer_file(workload.id)
        await layers.ensure_layer(self._places.layers, file, size_mib=workload.resources.disk_mib)
        await asyncio.to_thread(layers.mount_layer, file, bundle.layer)
        mounts.mount_writable(bundle.rootfs, layer=bundle.layer, points=bundle.points, rootfs=workload.rootfs)

    def _namespaces(self) -> tuple[str, ...]:
        return ("cgroup",)  # It hides where in the host's tree the instance is; gVisor shows nothing of it anyway.

    def _seccomp(self) -> Mapping[str, Any]:
        return seccomp.profile(platform.machine())

    def _sysctl(self, workload: Workload) -> Mapping[str, str]:
        # Its network namespace is the instance's own, so port 80 there is nobody else's (as in Docker).
        return {"net.ipv4.ip_unprivileged_port_start": "0"}

    def _has_runtime_state(self, id: InstanceId) -> bool:
        return (self._places.state / id).exists()

    def _forget_runtime_state(self, id: InstanceId) -> None:
        shutil.rmtree(self._places.state / id, ignore_errors=True)

    def _exec_command(self, id: InstanceId, process: Path, pid_file: Path) -> Command:
        return (str(self._program), *self._args, "exec", f"--process={process}", f"--pid-file={pid_file}", id)

    async def _kill_exec(self, id: InstanceId, pid_file: Path) -> None:
        try:
            first = int(pid_file.read_text())
        except (OSError, ValueError):
            return
        inside = self._groups.pids(id)
        family = [first]
        for member in family:
            family += _children(member)
        for pid in family:
            if pid in inside:  # Not a stranger who got a dead one's number.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, path.read_text().split())
    return found
