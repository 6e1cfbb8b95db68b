"""How is a sandbox kept as it should be, whichever OCI runtime makes it?

A sandbox is a folder on a tmpfs of our own: its configuration (with the app's secrets), what its monitor writes, and,
last of all, the record that it was started. The folder is made first and removed last, so whatever the moment at which
an agent died, the next one sees every sandbox there is, and clears what was half made. After a reboot the tmpfs is
gone, and so is everything that ran.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import shutil
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from shellwego.core.errors import DiskFull, EngineMissing, NotFound, StartFailed
from shellwego.core.ids import InstanceId
from shellwego.core.quantities import MIB
from shellwego.drivers.runtime import mounts, oci
from shellwego.drivers.runtime.bundle import Bundle, Record, look_at, write_secret
from shellwego.drivers.runtime.cgroups import find_cgroups
from shellwego.drivers.runtime.ending import KILL_SECONDS, kill_group, kill_unrecorded, remove_group, until
from shellwego.drivers.runtime.exec import ExecPlan, OciExec
from shellwego.drivers.runtime.inside import check_command, check_directory, is_empty_inside
from shellwego.drivers.runtime.monitor import create_under_monitor, limit_monitor, limited_group, reopen_log
from shellwego.drivers.runtime.oomwatch import OutOfMemoryWatch
from shellwego.drivers.runtime.places import Places
from shellwego.drivers.runtime.port import Observed, Workload
from shellwego.drivers.runtime.processes import mark_of_file, wait_for_end
from shellwego.drivers.runtime.users import find_user
from shellwego.kit.commands import Command, CommandFailed, run_command
from shellwego.kit.disks import FULL
from shellwego.kit.faults import fault_point, reach

FOLDER_MADE = fault_point("runtime.start.folder_made")
ROOTFS_MOUNTED = fault_point("runtime.start.rootfs_mounted")
CONFIGURED = fault_point("runtime.start.configured")
CREATED = fault_point("runtime.start.created")
STARTED = fault_point("runtime.start.started")
RECORDED = fault_point("runtime.start.recorded")
STOP_ASKED = fault_point("runtime.stop.asked")
STOP_KILLED = fault_point("runtime.stop.killed")
STOP_DELETED = fault_point("runtime.stop.deleted")
STOP_UNMOUNTED = fault_point("runtime.stop.unmounted")
STOP_REMOVED = fault_point("runtime.stop.removed")

_CREATE_SECONDS, _COMMAND_SECONDS = 60.0, 30.0
_LAST_LINES_SECONDS = 5.0
_REOPEN_SECONDS = 2.0


class OciRuntime(ABC):
    """
    A RuntimeDriver over an OCI runtime and conmon.

    `root` is for what must not outlive the machine's run: the driver mounts a tmpfs at `root/NAME`. `state` is on disk,
    for the writable layers. `prefix` is the cloud's path in every control group tree (`shellwego/CLOUD8`). One process
    at a time may use them: the agent.
    """

    name: str
    overhead_mib = 0
    """Memory that the sandbox itself may use beyond what the app was promised."""

    def __init__(
        self,
        *,
        runtime: Path,
        conmon: Path,
        root: Path,
        state: Path,
        prefix: str,
        log_limit_mib: int = 64,
        parallel_starts: int | None = None,
    ) -> None:
        self._program = runtime
        self._conmon = conmon
        self._places = Places(root / self.name, state / self.name)
        self._prefix = prefix.strip("/")
        self._log_limit_mib = log_limit_mib
        self._groups = find_cgroups(self._prefix)
        self._out_of_memory = OutOfMemoryWatch(self._groups, self._end_out_of_memory)
        self._slots = asyncio.Semaphore(parallel_starts or max(2, os.cpu_count() or 2))
        self._locks: dict[InstanceId, tuple[asyncio.Lock, int]] = {}
        self._starting: set[InstanceId] = set()
        self._execs = 0

    # What differs between runtimes

    @abstractmethod
    def _create_args(self, workload: Workload) -> tuple[str, ...]:
        """Global arguments of the runtime for a new sandbox."""

    @abstractmethod
    async def _mount_rootfs(self, workload: Workload, bundle: Bundle) -> None:
        """Make `bundle.rootfs` show the image with the points over it."""

    @abstractmethod
    def _has_runtime_state(self, id: InstanceId) -> bool:
        """Whether the runtime remembers a container of that id."""

    @abstractmethod
    def _forget_runtime_state(self, id: InstanceId) -> None:
        """Remove what the runtime remembers of a container that is no more."""

    @abstractmethod
    def _exec_command(self, id: InstanceId, process: Path, pid_file: Path) -> Command: ...

    @abstractmethod
    async def _kill_exec(self, id: InstanceId, pid_file: Path) -> None:
        """End the command, and what it started, by the pid that the runtime wrote."""

    def _pids_limit(self, workload: Workload) -> int:
        return workload.resources.pids

    def _process_rlimit(self, workload: Workload) -> int | None:
        return None

    def _namespaces(self) -> tuple[str, ...]:
        """Kinds of namespaces beyond those that every sandbox gets."""
        return ()

    def _seccomp(self) -> Mapping[str, Any] | None:
        return None

    def _sysctl(self, workload: Workload) -> Mapping[str, str]:
        return {}

    @property
    def _args(self) -> tuple[str, ...]:
        return (f"--root={self._places.state}",)

    # The port

    async def ensure_running(self, workload: Workload) -> None:
        id, bundle = workload.id, self._places.bundle(workload.id)
        async with self._alone(id):
            self._places.ensure()
            if bundle.is_running():
                self._out_of_memory.ensure_watched(id)
                return
            if bundle.path.exists() or self._groups.pids(id):
                await self._clear(bundle)
            self._starting.add(id)
            try:
                async with self._slots:
                    await self._start(workload, bundle)
            except Exception as error:
                await self._clear(bundle)
                raise _translate(error) from error
            finally:
                self._starting.discard(id)

    async def ensure_absent(self, id: InstanceId, *, grace_seconds: float) -> None:
        bundle = self._places.bundle(id)
        async with self._alone(id):
            first = bundle.first_process()
            if first is not None and grace_seconds > 0:
                # Both runtimes hand a signal at this process to the app's first one. As process 1 of its namespace
                # that one ignores SIGTERM unless it has a handler (pid_namespaces(7)); then the grace time passes.
                first.send(signal.SIGTERM)
                await reach(STOP_ASKED)
                await wait_for_end([first], timeout_seconds=grace_seconds)
            await self._clear(bundle)

    async def observe(self) -> list[Observed]:
        seen = await asyncio.to_thread(self._look)
        for observed in seen:
            if observed.running:
                self._out_of_memory.ensure_watched(observed.id)
        return seen

    async def exec(
        self,
        id: InstanceId,
        args: tuple[str, ...],
        *,
        tty: bool,
        env: Mapping[str, str],
        columns: int = 80,
        rows: int = 24,
    ) -> OciExec:
        bundle = self._places.bundle(id)
        if not bundle.is_running():
            raise NotFound("running instance", id)
        if not args or not args[0]:
            raise StartFailed("There is no command to run.")
        self._execs += 1
        stem = bundle.path / f"exec-{os.getpid()}-{self._execs}"
        process, pid_file = stem.with_suffix(".json"), stem.with_suffix(".pid")
        config = json.loads(bundle.config.read_text())
        said = oci.exec_process(config, args, tty=tty, env=env, columns=columns, rows=rows)
        write_secret(process, json.dumps(said).encode())

        async def kill() -> None:
            await self._kill_exec(id, pid_file)

        def forget() -> None:
            process.unlink(missing_ok=True)
            pid_file.unlink(missing_ok=True)

        plan = ExecPlan(self._exec_command(id, process, pid_file), pid_file, kill, forget)
        return await OciExec.begin(plan, tty=tty, columns=columns, rows=rows)

    async def reopen_log(self, id: InstanceId) -> None:
        bundle = self._places.bundle(id)
        record = bundle.find_record()
        if record is None or not reopen_log(bundle.path):
            raise NotFound("running instance", id)
        # The monitor answers nothing; the new file is its answer, and the old one is whole from then on.
        await until(record.log_path.exists, within_seconds=_REOPEN_SECONDS)

    # Beyond the port

    async def remove_all(self) -> None:
        """End every sandbox and take away all that this driver ever made: for uninstalling, and for tests."""
        for bundle in self._places.bundles():
            await self.ensure_absent(bundle.id, grace_seconds=0)
        self.close()
        self._places.remove()
        await remove_group(self._groups, "", within_seconds=2)  # Another driver of this cloud may still have some.

    def close(self) -> None:
        """Stop watching. The sandboxes run on; the next agent watches them again."""
        self._out_of_memory.close()

    # Its parts, in order of use

    @contextlib.asynccontextmanager
    async def _alone(self, id: InstanceId) -> AsyncIterator[None]:
        """One change at a time to each sandbox; others don't wait."""
        lock, users = self._locks.get(id, (asyncio.Lock(), 0))
        self._locks[id] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks.pop(id)
            if users > 1:
                self._locks[id] = (lock, users - 1)

    async def _start(self, workload: Workload, bundle: Bundle) -> None:
        user = find_user(workload.rootfs, workload.user)
        check_directory(workload.rootfs, workload.cwd)
        check_command(workload.rootfs, workload.args, oci.environment(workload, user), workload.cwd)
        if not workload.network_namespace.exists():
            raise StartFailed("The network of the instance was not ready.")
        workload.log_path.parent.mkdir(parents=True, exist_ok=True)

        bundle.make()
        await reach(FOLDER_MADE)
        real_paths = mounts.make_points(bundle.points, workload.rootfs, workload.files)
        await self._mount_rootfs(workload, bundle)
        await reach(ROOTFS_MOUNTED)
        files = {}
        for number, (path, content) in enumerate(workload.files.items()):
            source = bundle.files / str(number)
            source.write_bytes(content)
            source.chmod(0o444)
            files[real_paths[path]] = source
        config = oci.configuration(
            workload,
            oci.Prepared(
                rootfs=bundle.rootfs,
                user=user,
                files=files,
                cgroup=f"/{self._prefix}/{workload.id}",
                open_files_limit=resource.getrlimit(resource.RLIMIT_NOFILE)[1],
                memory_folders=tuple(path for path in ("/tmp", "/run") if is_empty_inside(workload.rootfs, path)),  # noqa: S108
                pids_limit=self._pids_limit(workload),
                process_rlimit=self._process_rlimit(workload),
                namespaces=self._namespaces(),
                seccomp=self._seccomp(),
                sysctl=self._sysctl(workload),
            ),
        )
        write_secret(bundle.config, json.dumps(config).encode())
        await reach(CONFIGURED)
        await create_under_monitor(
            oci.monitor_command(
                conmon=self._conmon,
                runtime=self._program,
                runtime_args=self._create_args(workload),
                id=workload.id,
                bundle=bundle.path,
                pid_file=bundle.pid_file,
                monitor_pid_file=bundle.monitor_pid_file,
                log_path=workload.log_path,
                log_limit_bytes=self._log_limit_mib * MIB,
            ),
            groups=self._groups,
            errors=bundle.errors,
            timeout_seconds=_CREATE_SECONDS,
        )
        await reach(CREATED)
        first, monitor = mark_of_file(bundle.pid_file), mark_of_file(bundle.monitor_pid_file)
        if first is None or monitor is None:
            raise StartFailed("The sandbox ended before its app could start.")
        limit_monitor(workload.id, monitor.pid, self._groups)
        self._groups.raise_memory(workload.id, (workload.resources.memory_mib + self.overhead_mib) * MIB)
        self._out_of_memory.ensure_watched(workload.id)
        # runsc looks at its network flag again at the start: without it, it takes the namespace's address away.
        start = oci.start(self._program, self._create_args(workload), workload.id)
        await run_command(start, timeout_seconds=_COMMAND_SECONDS)
        await reach(STARTED)
        bundle.write_record(Record(first, monitor, time.time(), workload.log_path))
        await reach(RECORDED)

    async def _clear(self, bundle: Bundle) -> None:
        """From whatever is there to nothing, the log aside. Safe to repeat and to interrupt anywhere."""
        id = bundle.id
        self._out_of_memory.forget(id)
        record = bundle.find_record()
        if record is not None:
            await kill_group(self._groups, id)
            await reach(STOP_KILLED)
            # The monitor ends by itself, after the last line of output is in the log.
            if not await wait_for_end([record.monitor], timeout_seconds=_LAST_LINES_SECONDS):
                record.monitor.send(signal.SIGKILL)
                await wait_for_end([record.monitor], timeout_seconds=KILL_SECONDS)
        elif bundle.path.exists():
            await kill_unrecorded(bundle)
        if self._has_runtime_state(id):
            with contextlib.suppress(CommandFailed):  # What it leaves, the next lines take away.
                await run_command(oci.delete(self._program, self._args, id), timeout_seconds=_COMMAND_SECONDS)
            self._forget_runtime_state(id)
        await kill_group(self._groups, id)
        await remove_group(self._groups, id)
        await remove_group(self._groups, limited_group(id))
        await reach(STOP_DELETED)
        mounts.unmount(bundle.rootfs)
        mounts.unmount(bundle.layer)
        self._places.layer_file(id).unlink(missing_ok=True)
        await reach(STOP_UNMOUNTED)
        if bundle.path.exists():
            shutil.rmtree(bundle.path)
        await reach(STOP_REMOVED)

    def _end_out_of_memory(self, name: str) -> None:
        bundle = self._places.bundle(InstanceId(name))
        if bundle.path.exists():
            bundle.out_of_memory.touch()
        self._groups.kill(name)

    def _look(self) -> list[Observed]:
        found = (look_at(bundle, self._groups) for bundle in self._places.bundles() if bundle.id not in self._starting)
        return [observed for observed in found if observed is not None]


def _translate(error: Exception) -> Exception:
    """Foreign errors in the port's words."""
    if isinstance(error, CommandFailed):
        if error.returncode == 127 and "No such file" in error.stderr:
            return EngineMissing(Path(error.command[0]).name, "it is not there.")
        if "No space left" in error.stderr:
            return DiskFull("starting an instance")
        return StartFailed(f"The sandbox could not be started: {error.stderr or error}")
    if isinstance(error, OSError) and error.errno in FULL:
        return DiskFull("starting an instance")
    if isinstance(error, OSError):
        return StartFailed(f"The sandbox could not be prepared: {error}")
    return error
