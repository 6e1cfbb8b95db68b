"""Which process is our HAProxy, and how is it started, replaced and ended?

It is started detached, in a session of its own and inside the data plane's network namespace, and outlives us. There
is no pid file to be wrong: ours are the processes whose command line names our configuration file, and the current
one is whoever answers on the runtime socket. Another one is either finishing its last requests after a hand-over, or
was started by an edge that died in the middle; both are told to stop softly, which is safe to repeat.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import select
import shutil
import signal
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import structlog

from shellwego.core.errors import EngineMissing
from shellwego.edge.config import ProxyPaths
from shellwego.edge.socket import ProxyInfo, ProxyUnavailable, RuntimeSocket
from shellwego.kit.commands import Command, CommandFailed, run_command
from shellwego.kit.faults import fault_point, reach

log = structlog.get_logger()

WRITE = fault_point("edge.proxy.write")
SPAWN = fault_point("edge.proxy.spawn")
SPAWNED = fault_point("edge.proxy.spawned")
REPLACED = fault_point("edge.proxy.replaced")

_READY_SECONDS = 30.0


class ConfigRefused(Exception):
    """HAProxy doesn't accept the configuration. Nothing was changed."""


def check_config(program: Path, config: Path) -> Command:
    return (str(program), "-c", "-f", str(config))


def without_descriptors(config: str) -> str:
    """The same for a check, which inherits no socket and binds none."""
    return re.sub(r"bind fd@\d+", "bind 127.0.0.1:1", config)


def start_proxy(program: Path, config: Path, *, namespace: Path | None, replacing: Iterable[int]) -> Command:
    """`-db` keeps it the process that we started, so that its pid is known; `-sf` lets the older ones finish."""
    enter = () if namespace is None else ("nsenter", f"--net={namespace}", "--")
    older = tuple(str(pid) for pid in replacing)
    return (*enter, str(program), "-db", "-f", str(config), *(("-sf", *older) if older else ()))


class HAProxy:
    """The HAProxy processes of one cloud. `on_death` is called when the watched one has ended."""

    def __init__(
        self, program: Path, paths: ProxyPaths, *, namespace: Path | None, on_death: Callable[[], None]
    ) -> None:
        self._program, self._paths, self._namespace, self._on_death = program, paths, namespace, on_death
        self._watched: dict[int, int] = {}
        self._older: list[int] = []
        self.runtime = RuntimeSocket(paths.socket)

    async def find_current(self) -> ProxyInfo | None:
        """The HAProxy that serves now, watched from here on. None if nobody answers."""
        info = await self.runtime.find_info()
        if info is None or info.stopping or info.pid not in self.find_processes([info.pid]):
            return None
        self._watch(info.pid)
        return info

    def find_processes(self, among: Iterable[int] | None = None) -> list[int]:
        """Every HAProxy of ours that lives, the current one and those that finish their last requests."""
        marker = str(self._paths.config).encode()
        pids = (
            among
            if among is not None
            else (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
        )
        return [pid for pid in pids if _runs_with(pid, marker)]

    def is_in_namespace(self, pid: int) -> bool:
        """Whether a process is in the data plane as it is now: one that was made anew has another inode."""
        if self._namespace is None:
            return True
        try:
            return Path(f"/proc/{pid}/ns/net").stat().st_ino == self._namespace.stat().st_ino
        except OSError:
            return False

    async def start(self, config: str, files: Mapping[Path, str], descriptors: Iterable[int]) -> ProxyInfo:
        """
        Write the files, let HAProxy check the configuration, and start it; those of ours that run hand over to it.

        Raises ConfigRefused before anything is harmed, ProxyUnavailable if the new process doesn't come up, and
        EngineMissing.
        """
        await reach(WRITE)
        candidate = self._paths.config.with_suffix(".new")
        for path, content in {**files, candidate: without_descriptors(config)}.items():
            _write(path, content)
        try:
            await run_command(check_config(self._program, candidate), timeout_seconds=60)
        except CommandFailed as error:
            if error.returncode == 127:
                raise EngineMissing("haproxy", "is not installed.") from error
            raise ConfigRefused(error.stderr) from error
        candidate.unlink()
        _write(self._paths.config, config)

        older = self.find_processes()
        await reach(SPAWN)
        pid = self._spawn(
            start_proxy(self._program, self._paths.config, namespace=self._namespace, replacing=older), descriptors
        )
        await reach(SPAWNED)
        info = await self._wait_ready(pid)
        await reach(REPLACED)
        log.info("edge.proxy_started", pid=pid, slots=info.slots, replaced=older)
        return info

    def retire_others(self, current: int, *, rescan: bool) -> bool:
        """
        Tell every other HAProxy of ours to stop softly. Whether there still is one. Without `rescan` only those
        found the last time are looked at, which is cheap.
        """
        found = self.find_processes(None if rescan else self._older)
        self._older = [pid for pid in found if pid != current]
        for pid in self._older:
            self._signal(pid, signal.SIGUSR1)
        return bool(self._older)

    def kill(self, pid: int) -> None:
        """End a HAProxy that doesn't answer any more."""
        self._signal(pid, signal.SIGKILL)

    async def stop(self, *, grace_seconds: float) -> None:
        """End all of them: softly first, so that requests under way finish, then at once. Removes its files."""
        pids = self.find_processes()
        for number, limit in ((signal.SIGUSR1, grace_seconds), (signal.SIGTERM, 2.0), (signal.SIGKILL, 5.0)):
            pids = self.find_processes(pids)
            for pid in pids:
                self._signal(pid, number)
            await _wait_ended(pids, limit)
        self.close()
        await asyncio.to_thread(shutil.rmtree, self._paths.directory, ignore_errors=True)

    def close(self) -> None:
        """Watch no longer. HAProxy goes on."""
        for pid in list(self._watched):
            self._unwatch(pid)

    def _spawn(self, command: Command, descriptors: Iterable[int]) -> int:
        # posix_spawn, not asyncio's subprocess: that one kills or waits for what it started when its loop ends.
        program = shutil.which(command[0])
        if program is None:
            raise EngineMissing(command[0], "is not on the PATH.")
        output = os.open(self._paths.output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            actions: list[tuple[int, int, int] | tuple[int, int, str, int, int]] = [
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, output, 1),
                (os.POSIX_SPAWN_DUP2, output, 2),
                # Onto itself: that takes the close-on-exec flag off in the child.
                *((os.POSIX_SPAWN_DUP2, descriptor, descriptor) for descriptor in descriptors),
            ]
            pid = os.posix_spawn(
                program,
                list(command),
                {"PATH": os.environ.get("PATH", os.defpath)},
                file_actions=actions,
                setsid=True,
                setsigmask=[],
                setsigdef=[signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP],
            )
        finally:
            os.close(output)
        self._watch(pid)
        return pid

    async def _wait_ready(self, pid: int) -> ProxyInfo:
        try:
            async with asyncio.timeout(_READY_SECONDS):
                while True:
                    info = await self.runtime.find_info()
                    if info is not None and info.pid == pid:
                        return info
                    if pid not in self._watched:
                        raise ProxyUnavailable(f"it ended at its start: {self._last_words()}")
                    await asyncio.sleep(0.01)
        except TimeoutError as error:
            self._signal(pid, signal.SIGKILL)
            raise ProxyUnavailable("it did not come up in time") from error

    def _last_words(self) -> str:
        try:
            return self._paths.output.read_text(errors="replace").strip()[-2000:]
        except OSError:
            return "(it said nothing)"

    def _watch(self, pid: int) -> None:
        if pid in self._watched:
            return
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            self._on_death()
            return
        self._watched[pid] = pidfd
        asyncio.get_running_loop().add_reader(pidfd, self._has_ended, pid)

    def _has_ended(self, pid: int) -> None:
        self._unwatch(pid)
        with contextlib.suppress(ChildProcessError):  # One that an earlier edge started is not our child.
            os.waitpid(pid, os.WNOHANG)
        log.info("edge.proxy_ended", pid=pid)
        self._on_death()

    def _unwatch(self, pid: int) -> None:
        pidfd = self._watched.pop(pid)
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)

    def _signal(self, pid: int, number: signal.Signals) -> None:
        """Only ever to a process that still is ours: the pid may have been given to somebody else."""
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            return
        try:
            if self.find_processes([pid]):
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, number)
        finally:
            os.close(pidfd)


def _runs_with(pid: int, marker: bytes) -> bool:
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return marker in arguments and any(os.path.basename(word) == b"haproxy" for word in arguments[:5])  # noqa: PTH119 - bytes


async def _wait_ended(pids: Iterable[int], limit_seconds: float) -> None:
    """Until all have ended, at most so long. They need not be our children."""
    poller = select.poll()
    pidfds: set[int] = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            pidfds.add(os.pidfd_open(pid))
    for pidfd in pidfds:
        poller.register(pidfd, select.POLLIN)
    left = set(pidfds)
    try:
        async with asyncio.timeout(limit_seconds):
            while left:
                for pidfd, _ in poller.poll(0):
                    poller.unregister(pidfd)
                    left.discard(pidfd)
                if left:
                    await asyncio.sleep(0.02)
    except TimeoutError:
        pass
    finally:
        for pidfd in pidfds:
            os.close(pidfd)


def _write(path: Path, content: str) -> None:
    # Read once, at HAProxy's start, and written anew before each: nothing here needs to survive a power cut.
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
