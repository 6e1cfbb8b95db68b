"""What does one build daemon need around it, and how does all of it go away?

A *lane* is one buildkitd with its own network namespace, control group, way out and storage. There is one lane per
organisation and trust: builds of two organisations never share a daemon, so no layer, no cache mount and no timing of
one is there for the other to find, and the runtime of a lane's steps is fixed before it starts. (One daemon with
salted cache ids was the alternative; it rests on every key of BuildKit's being salted.)

Storage is an ext4 file system in a sparse file, mounted in the daemon's own mount namespace: a build that fills the
disk gets ENOSPC at its limit, the host never does, and when the last process is killed the mount and its loop device
are gone by themselves. Nothing of a running lane is remembered: a killed server's lanes are found by their names.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import structlog

from shellwego.core.errors import EngineMissing
from shellwego.core.networks import AllowedNetwork
from shellwego.drivers.images import buildkit, buildkit_network
from shellwego.drivers.images.buildkit_cgroup import BuildGroup
from shellwego.drivers.images.buildkit_ends import (
    MAY_HOLD_SECRETS,
    NAMESPACES,
    STORAGE,
    cgroup_parent,
    end_lane,
    forget_storage,
    namespace_prefix,
)
from shellwego.kit.commands import CommandFailed, run_command
from shellwego.kit.faults import fault_point, reach
from shellwego.kit.files import replace_file

STORAGE_MADE = fault_point("builder.lane.storage_made")
GROUP_MADE = fault_point("builder.lane.group_made")
NAMESPACE_MADE = fault_point("builder.lane.namespace_made")
NETWORK_UP = fault_point("builder.lane.network_up")
DAEMON_UP = fault_point("builder.lane.daemon_up")

log = structlog.get_logger()

_START_SECONDS = 60.0
_PRUNE_SECONDS = 60.0
_MOMENT_SECONDS = 10.0
_HERE = Path(__file__).parent
_STEP_LOG_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Programs:
    """Where the engines are. Those without a path of their own come with the system and are found on the PATH."""

    buildkitd: Path
    buildctl: Path
    runsc: Path
    runc: Path
    slirp4netns: str = "slirp4netns"
    mkfs_ext4: str = "mkfs.ext4"


@dataclass(frozen=True, slots=True)
class LaneSettings:
    """What makes a lane this lane. `name` is unique within the cloud and part of everything it has on the host."""

    name: str
    prefix: str
    directory: Path
    runtime_directory: Path
    trusted: bool
    storage_mib: int
    cache_mib: int
    certificates: Path | None
    reachable: tuple[AllowedNetwork, ...]

    @property
    def namespace(self) -> str:
        return f"{namespace_prefix(self.prefix)}{self.name}"

    @property
    def cgroup(self) -> PurePosixPath:
        return cgroup_parent(self.prefix) / self.name

    @property
    def socket(self) -> Path:
        return self.runtime_directory / "buildkitd.sock"


class Lane:
    """One build daemon and all around it."""

    def __init__(self, settings: LaneSettings, programs: Programs) -> None:
        self.settings = settings
        self._programs = programs
        self.group = BuildGroup(settings.cgroup)
        self._daemon: asyncio.subprocess.Process | None = None
        self._slirp: asyncio.subprocess.Process | None = None
        self._rules_at = float("-inf")

    @property
    def is_running(self) -> bool:
        return all(p is not None and p.returncode is None for p in (self._daemon, self._slirp))

    async def is_quiet(self) -> bool:
        """Whether the daemon runs and nothing of a build does any more."""
        own = {p.pid for p in (self._daemon, self._slirp) if p is not None}
        for _ in range(40):
            if not self.is_running:
                return False
            if not self.group.members() - own:
                return True
            await asyncio.sleep(0.05)
        return False

    async def ensure_running(self, *, memory_mib: int, cpu_millis: int) -> None:
        """The daemon answers, under these limits and with rules for the host's addresses of a moment ago."""
        if not await self.is_quiet():
            await self.end()
            await self._start(memory_mib=memory_mib, cpu_millis=cpu_millis)
            return
        await asyncio.to_thread(self.group.create, memory_mib=memory_mib, cpu_millis=cpu_millis)
        if time.monotonic() - self._rules_at > _MOMENT_SECONDS:
            await self._apply_rules()
        await self._prune()

    async def end(self, *, gently: bool = False) -> None:
        """No process, namespace, mount or control group of the lane is left. Its cache stays."""
        if gently and self._daemon is not None and self._daemon.returncode is None:
            self._daemon.terminate()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(5.0):
                    await self._daemon.wait()
        await end_lane(self.group, self.settings.namespace)
        for process in (self._daemon, self._slirp):
            if process is not None:
                await process.wait()
        self._daemon = self._slirp = None
        await asyncio.to_thread(shutil.rmtree, self.settings.runtime_directory, ignore_errors=True)

    def expect_secrets(self) -> None:
        """From now until `forget_output` has done its work, steps may print what nobody may read afterwards."""
        replace_file(self.settings.directory / MAY_HOLD_SECRETS, b"")

    async def forget_output(self) -> None:
        """
        What steps printed is on no disk any more. The daemon keeps it to show it again, which we never ask for, and a
        step may print a secret. Of a daemon that was ended in the middle of it the whole cache goes.
        """
        if self.is_running and await self._tell(
            buildkit.forget_command(self._programs.buildctl, socket=self.settings.socket)
        ):
            (self.settings.directory / MAY_HOLD_SECRETS).unlink(missing_ok=True)
            return
        await self.forget_storage()

    async def forget_storage(self) -> None:
        """Nothing of the lane runs, and its cache is gone. The next build begins with an empty one."""
        await self.end()
        forget_storage(self.settings.directory)

    async def _prune(self) -> None:
        """
        The cache is no larger than it may be. The daemon sees to that by itself, but only a minute after a build: a
        few quick ones would fill the disk first.
        """
        assert self._daemon is not None
        # The mount is in the daemon's namespace; proc(5) shows it to us.
        seen = os.statvfs(f"/proc/{self._daemon.pid}/root{self.settings.directory}/root")
        if (seen.f_blocks - seen.f_bfree) * seen.f_frsize >> 20 <= self.settings.cache_mib:
            return
        command = buildkit.prune_command(
            self._programs.buildctl, socket=self.settings.socket, cache_mib=self.settings.cache_mib
        )
        await self._tell(command)

    async def _tell(self, command: tuple[str, ...]) -> bool:
        """Whether the daemon did as it was told, in time."""
        client = await self.spawn(command, env={"HOME": "/nonexistent", "PATH": "/nonexistent"})
        try:
            async with asyncio.timeout(_PRUNE_SECONDS):
                await client.communicate()
        except TimeoutError:
            log.warning("builder.prune_too_slow", lane=self.settings.name, seconds=_PRUNE_SECONDS)
        finally:
            if client.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    client.kill()
                await client.wait()
        return client.returncode == 0

    async def spawn(
        self, command: tuple[str, ...], *, env: dict[str, str], descriptors: Collection[int] = ()
    ) -> asyncio.subprocess.Process:
        """A client of the daemon, in the lane's group from its first instruction, its output in two pipes."""
        return await self._launch(
            {"command": command, "env": env},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            descriptors=descriptors,
        )

    async def _start(self, *, memory_mib: int, cpu_millis: int) -> None:
        settings = self.settings
        settings.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        settings.runtime_directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            await self._ensure_storage()
            await reach(STORAGE_MADE)
            try:
                await asyncio.to_thread(self.group.create, memory_mib=memory_mib, cpu_millis=cpu_millis)
            except OSError as error:
                raise EngineMissing("cgroups", f"The builder's limits can't be set: {error}.") from error
            await reach(GROUP_MADE)
            await run_command(buildkit_network.namespace_add(settings.namespace))
            await run_command(buildkit_network.loopback_up(settings.namespace))
            await reach(NAMESPACE_MADE)
            # The rules come before the way out: there is no moment without them.
            await self._apply_rules()
            await self._start_slirp()
            await reach(NETWORK_UP)
            await self._start_daemon()
            await reach(DAEMON_UP)
        except CommandFailed as error:
            await self.end()
            raise EngineMissing(error.command[0], f"The build daemon can't be started: {error}.") from error
        except BaseException:
            await self.end()
            raise

    async def _ensure_storage(self) -> None:
        """A file system of the right size. A cache of another size or one that was half made is thrown away."""
        file = self.settings.directory / STORAGE
        size = self.settings.storage_mib << 20
        if file.exists() and file.stat().st_size == size:
            os.utime(file)
            return
        fresh = file.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        with fresh.open("wb") as handle:
            handle.truncate(size)
        await run_command(
            (self._programs.mkfs_ext4, "-q", "-F", "-m", "0", "-E", "nodiscard,lazy_itable_init=1", str(fresh)),
            env=_environment(),
        )
        fresh.rename(file)

    async def _apply_rules(self) -> None:
        shown = await run_command(buildkit_network.host_addresses())
        own = [a["local"] for link in json.loads(shown.stdout) for a in link.get("addr_info", []) if "local" in a]
        await run_command(
            buildkit_network.apply_rules(self.settings.namespace),
            stdin=buildkit_network.filter_rules(own, self.settings.reachable).encode(),
        )
        self._rules_at = time.monotonic()

    async def _start_slirp(self) -> None:
        ready, signal_ready = os.pipe()
        try:
            # Its --enable-sandbox unmounts all that it sees. But for the mount namespace that the launcher makes first,
            # that would reach the host's /run/netns, which ip-netns(8) shares, and every namespace there.
            program = shutil.which(self._programs.slirp4netns, path=_environment()["PATH"])
            if program is None:
                raise EngineMissing("slirp4netns", "It isn't installed.")
            command = buildkit_network.slirp(program, NAMESPACES / self.settings.namespace, signal_ready)
            with (self.settings.runtime_directory / "slirp.log").open("wb") as log:
                self._slirp = await self._launch(
                    {"command": command, "env": _environment()}, stdout=log, stderr=log, descriptors=(signal_ready,)
                )
            os.close(signal_ready)
            signal_ready = -1
            async with asyncio.timeout(_START_SECONDS):
                answer = await asyncio.to_thread(os.read, ready, 1)
            if answer != b"1":
                raise EngineMissing("slirp4netns", f"It ended at once: {self._last_words('slirp.log')}")
        finally:
            os.close(ready)
            if signal_ready >= 0:
                os.close(signal_ready)

    async def _start_daemon(self) -> None:
        settings, directory = self.settings, self.settings.runtime_directory
        step = directory / "step"
        shutil.copyfile(_HERE / "buildkit_step.py", step)
        step.chmod(0o755)
        # The step program is found by `env python3`; nothing else is on the daemon's PATH, and so no git or
        # ssh of the host's is run, outside any sandbox, against an address that a Dockerfile names.
        programs = directory / "programs"
        programs.mkdir(exist_ok=True)
        interpreter = programs / "python3"
        interpreter.unlink(missing_ok=True)
        interpreter.symlink_to(sys.executable)
        state = directory / "state"
        state.mkdir(exist_ok=True, mode=0o700)
        root = settings.directory / "root"
        root.mkdir(exist_ok=True, mode=0o700)
        replace_file(
            directory / "step.json",
            json.dumps(
                {
                    "runtime": "runc" if settings.trusted else "runsc",
                    "binary": str(self._programs.runc if settings.trusted else self._programs.runsc),
                    "state": str(state),
                    "cgroup": f"/{settings.cgroup}",
                    "certificates": None if settings.certificates is None else str(settings.certificates),
                }
            ).encode(),
        )
        replace_file(
            directory / "buildkitd.toml",
            buildkit.daemon_settings(root=root, step_program=step, cache_mib=settings.cache_mib).encode(),
        )
        replace_file(directory / "resolv.conf", f"nameserver {buildkit_network.RESOLVER}\n".encode(), mode=0o644)
        storage = settings.directory / STORAGE
        mount = shutil.which("mount", path=_environment()["PATH"]) or "/bin/mount"
        with (directory / "buildkitd.log").open("wb") as log:
            self._daemon = await self._launch(
                {
                    "network": str(NAMESPACES / settings.namespace),
                    "mounts": [
                        {"source": str(directory / "resolv.conf"), "target": "/etc/resolv.conf"},
                        {"command": [mount, "-o", "loop,discard,nodev", str(storage), str(root)]},
                    ],
                    "command": buildkit.daemon_command(
                        self._programs.buildkitd,
                        settings=directory / "buildkitd.toml",
                        socket=settings.socket,
                        otel_socket=directory / "otel.sock",
                    ),
                    "env": {
                        "PATH": str(programs),
                        "HOME": "/nonexistent",
                        **({} if settings.certificates is None else {"SSL_CERT_FILE": str(settings.certificates)}),
                        "BUILDKIT_STEP_LOG_MAX_SIZE": str(_STEP_LOG_BYTES),
                        "BUILDKIT_STEP_LOG_MAX_SPEED": str(4 << 20),
                    },
                },
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + _START_SECONDS
        while not _answers(settings.socket):
            if self._daemon.returncode is not None or time.monotonic() > deadline:
                # A file system that can't be mounted is a cache that can't be read: the next try makes a new one.
                if self._daemon.returncode == 70:
                    storage.unlink(missing_ok=True)
                raise EngineMissing("buildkit", f"The daemon doesn't start: {self._last_words('buildkitd.log')}.")
            await asyncio.sleep(0.02)

    async def _launch(
        self,
        what: dict[str, object],
        *,
        stdout: object,
        stderr: object,
        descriptors: Collection[int] = (),
    ) -> asyncio.subprocess.Process:
        what = {"cgroup_files": [str(file) for file in self.group.member_files()], **what}
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-IS",
            str(_HERE / "buildkit_launch.py"),
            json.dumps(what),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=stdout,  # type: ignore[arg-type]  # a file or PIPE; typeshed has no name for that union
            stderr=stderr,  # type: ignore[arg-type]
            env=_environment(),
            cwd="/",
            pass_fds=tuple(descriptors),
            start_new_session=True,
            limit=1 << 20,
        )

    def _last_words(self, log: str) -> str:
        with contextlib.suppress(OSError):
            return (self.settings.runtime_directory / log).read_text(errors="replace")[-1000:].strip()
        return "(it said nothing)"


def _environment() -> dict[str, str]:
    return {"PATH": f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin", "LC_ALL": "C"}


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
