"""How do we run a stranger's app? In gVisor: with a kernel of its own, in user space.

systrap needs no hardware support. The writable layer is runsc's own: a nameless file that the kernel frees with the
sandbox, with a limit that the app sees as ENOSPC.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from shellwego.core.ids import InstanceId
from shellwego.drivers.runtime import mounts
from shellwego.drivers.runtime.bundle import Bundle
from shellwego.drivers.runtime.port import Workload
from shellwego.drivers.runtime.sandboxes import OciRuntime
from shellwego.kit.commands import Command, CommandFailed, run_command


class GVisorRuntime(OciRuntime):
    """A RuntimeDriver over runsc. `Workload.host_sockets` gives one sandbox the kernel's network stack."""

    name = "gvisor"
    # The user-space kernel, its gofer and stubs take 12 to 18 MiB when idle; files that they hold open take more.
    # The app sees the memory it was promised as its total; the control group's limit is this much higher.
    overhead_mib = 48

    def _create_args(self, workload: Workload) -> tuple[str, ...]:
        return (
            *self._args,
            "--platform=systrap",
            f"--network={'host' if workload.host_sockets else 'sandbox'}",
            f"--overlay2=root:dir={self._places.layers},size={workload.resources.disk_mib}m",
        )

    def _pids_limit(self, workload: Workload) -> int:
        # On the host, a process inside is two threads, the sandbox itself about twenty, and each system call that waits
        # for the host one more: a fork bomb of 64 had 241 beside others that wrote to the disk. At this limit the whole
        # sandbox would crash, so it is only the backstop; inside, the app meets its own limit as EAGAIN.
        return 4 * workload.resources.pids + 256

    def _process_rlimit(self, workload: Workload) -> int:
        return workload.resources.pids

    async def _mount_rootfs(self, workload: Workload, bundle: Bundle) -> None:
        mounts.mount_read_only(bundle.rootfs, points=bundle.points, rootfs=workload.rootfs)

    def _has_runtime_state(self, id: InstanceId) -> bool:
        return any(self._places.state.glob(f"{id}_*"))

    def _forget_runtime_state(self, id: InstanceId) -> None:
        for path in self._places.state.glob(f"*{id}*"):
            path.unlink(missing_ok=True)

    def _exec_command(self, id: InstanceId, process: Path, pid_file: Path) -> Command:
        return (str(self._program), *self._args, "exec", f"--process={process}", f"--internal-pid-file={pid_file}", id)

    async def _kill_exec(self, id: InstanceId, pid_file: Path) -> None:
        try:
            pid = int(pid_file.read_text())
        except (OSError, ValueError):
            return
        table = await run_command((str(self._program), *self._args, "ps", id), timeout_seconds=10)
        for victim in _family(table.stdout, pid):
            with contextlib.suppress(CommandFailed):  # It ended meanwhile.
                await run_command(
                    (str(self._program), *self._args, "kill", f"--pid={victim}", id, "KILL"), timeout_seconds=10
                )


def _family(table: str, first: int) -> list[int]:
    """A process and all its descendants, from the table of `runsc ps`, the eldest first."""
    parents = {}
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 2 and fields[1].isdecimal() and fields[2].isdecimal():
            parents[int(fields[1])] = int(fields[2])
    family = [first] if first in parents else []
    for member in family:
        family += [pid for pid, parent in parents.items() if parent == member]
    return family
