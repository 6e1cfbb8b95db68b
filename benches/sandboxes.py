"""A network and runtimes of the bench's own, beside bare runtimes on the very same bundle: nothing of a cloud runs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from benches.measure import until
from benches.world import Bench, now
from shellwego.core.apps import Resources
from shellwego.core.ids import InstanceId, new_id
from shellwego.drivers.network.bridge import BridgeNetwork
from shellwego.drivers.runtime.gvisor import GVisorRuntime
from shellwego.drivers.runtime.port import Workload
from shellwego.drivers.runtime.runc import RuncRuntime
from shellwego.kit.commands import CommandFailed, run_command
from shellwego.processes.engines_found import Engines, find_engines

RESOURCES = Resources(memory_mib=256, cpu_millis=1000, pids=256, disk_mib=256)
PORT = 8080
_GRACE_SECONDS = 0.0


@dataclass(frozen=True, slots=True)
class Program:
    """What runs inside."""

    rootfs: Path
    args: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str
    user: str
    path: str


@dataclass
class Sandboxes:
    """One node's drivers without a node."""

    engines: Engines
    network: BridgeNetwork
    runtimes: dict[str, GVisorRuntime | RuncRuntime]
    scratch: Path
    short: str
    _addresses: int = 0

    def _address(self) -> IPv4Address:
        self._addresses += 1
        return self.network.addresses[self._addresses]

    async def start(self, kind: str, program: Program) -> float:
        """Seconds from nothing to the first 200: namespace and address, monitor, sandbox, app."""
        workload, address = self._workload(program), self._address()
        began = now()
        await self.network.ensure_attached(workload.id, address)
        await self.runtimes[kind].ensure_running(workload)
        took = await self._first_200(address, program.path) - began
        await self.runtimes[kind].ensure_absent(workload.id, grace_seconds=_GRACE_SECONDS)
        await self.network.ensure_detached(workload.id)
        return took

    async def start_bare(
        self, kind: str, program: Program, *, meanwhile: Callable[[str], Awaitable[None]] | None = None
    ) -> float:
        """
        Seconds for `runsc run` or `runc run` on the bundle that our driver wrote; all else is there already.
        `meanwhile` is called with the sandbox's id while it runs.
        """
        workload, address = self._workload(program), self._address()
        bundle = self.scratch / f"bare-{workload.id}"
        config = await self._configuration(kind, program)
        await self.network.ensure_attached(workload.id, address)
        group = f"/shellwego/{self.short}/{workload.id}"
        config["linux"]["cgroupsPath"] = group
        for namespace in config["linux"]["namespaces"]:
            if namespace["type"] == "network":
                namespace["path"] = str(workload.network_namespace)
        root = bundle / "rootfs"
        for folder in (root, bundle / "upper", bundle / "work", bundle / "layers"):
            folder.mkdir(parents=True)
        over = f"lowerdir={program.rootfs},upperdir={bundle / 'upper'},workdir={bundle / 'work'}"
        if kind == "runc":
            await run_command(("mount", "-t", "overlay", "overlay", "-o", over, str(root)))
            command: tuple[str, ...] = (str(self.engines.runc), f"--root={self.scratch / 'bare'}")
        else:
            await run_command(("mount", "--bind", "-o", "ro", str(program.rootfs), str(root)))
            command = (
                *(
                    str(self.engines.runsc),
                    f"--root={self.scratch / 'bare'}",
                    "--platform=systrap",
                    "--network=sandbox",
                ),
                f"--overlay2=root:dir={bundle / 'layers'},size={RESOURCES.disk_mib}m",
            )
        config["root"]["path"] = str(root)
        (bundle / "config.json").write_text(json.dumps(config))
        began = now()
        with (bundle / "output").open("wb") as output:
            process = subprocess.Popen(  # noqa: ASYNC220 - its start is what is timed
                (*command, "run", f"--bundle={bundle}", workload.id),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        try:
            took = await self._first_200(address, program.path, process, bundle / "output") - began
            if meanwhile is not None:
                await asyncio.sleep(3)
                await meanwhile(workload.id)
            return took
        finally:
            with contextlib.suppress(CommandFailed):
                await run_command((*command, "kill", workload.id, "KILL"), timeout_seconds=20)
            await asyncio.to_thread(process.wait, 20)
            with contextlib.suppress(CommandFailed):
                await run_command((*command, "delete", "--force", workload.id), timeout_seconds=20)
            await run_command(("umount", str(root)))
            await self.network.ensure_detached(workload.id)
            shutil.rmtree(bundle, ignore_errors=True)
            await until(lambda: _remove_groups(group), "control groups are gone", seconds=10)

    async def idle(self, kind: str, program: Program) -> tuple[Workload, IPv4Address]:
        """A sandbox that has answered once and is left running."""
        workload, address = self._workload(program), self._address()
        await self.network.ensure_attached(workload.id, address)
        await self.runtimes[kind].ensure_running(workload)
        await self._first_200(address, program.path)
        return workload, address

    async def _configuration(self, kind: str, program: Program) -> dict:  # type: ignore[type-arg]
        """The config.json of a bundle of our driver, which is the same for all but ids and places."""
        known = self.scratch / f"{kind}-{abs(hash(program.rootfs))}.json"
        if not known.exists():
            workload, _ = await self.idle(kind, program)
            made = self.scratch / "root" / kind / "sandboxes" / workload.id / "config.json"
            shutil.copy(made, known)
            await self.runtimes[kind].ensure_absent(workload.id, grace_seconds=0)
            await self.network.ensure_detached(workload.id)
        found = json.loads(known.read_text())
        assert isinstance(found, dict)
        return found

    def _workload(self, program: Program) -> Workload:
        id = InstanceId(new_id("instance", secrets.token_bytes))
        return Workload(
            id=id,
            rootfs=program.rootfs,
            args=program.args,
            env={**program.env, "PORT": str(PORT)},
            network_namespace=Path("/run/netns") / f"swg-{self.short}-{id.split('_')[1]}",
            log_path=self.scratch / "logs" / f"{id}.log",
            resources=RESOURCES,
            cwd=program.cwd,
            user=program.user,
        )

    async def _first_200(
        self,
        address: IPv4Address,
        path: str,
        process: subprocess.Popen[bytes] | None = None,
        output: Path | None = None,
    ) -> float:
        loop = asyncio.get_running_loop()
        deadline = now() + 60
        request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        while now() < deadline:
            if process is not None and process.poll() is not None and output is not None:
                raise RuntimeError(f"the bare sandbox ended: {output.read_text(errors='replace')[-1000:]}")
            try:
                # A sandbox whose network isn't up yet swallows the first packet; the kernel would ask after 1 s.
                connection = await self.network.dial(address, PORT, timeout_seconds=0.1)
            except (OSError, TimeoutError):
                await asyncio.sleep(0.003)
                continue
            with connection, contextlib.suppress(OSError, TimeoutError):
                await loop.sock_sendall(connection, request)
                async with asyncio.timeout(10):
                    if (await loop.sock_recv(connection, 4096)).startswith(b"HTTP/1.1 200"):
                        return now()
            await asyncio.sleep(0.003)
        raise TimeoutError(f"{address} did not answer 200 on {path}")


@contextlib.asynccontextmanager
async def sandboxes(bench: Bench) -> AsyncIterator[Sandboxes]:
    """Drivers for the block; nothing of them is left after it."""
    engines = find_engines()
    short = "".join(secrets.choice("abcdefghijklmnopqrstuvwxyz234567") for _ in range(8))
    scratch = bench.directory / f"sandboxes-{short}"
    scratch.mkdir()
    network = BridgeNetwork(
        prefix=f"swg-{short}", runtime_directory=scratch, slirp4netns=engines.slirp4netns, nft=engines.nft
    )
    where = {
        "conmon": engines.conmon,
        "root": scratch / "root",
        "state": scratch / "state",
        "prefix": f"shellwego/{short}",
    }
    runtimes: dict[str, GVisorRuntime | RuncRuntime] = {
        "gvisor": GVisorRuntime(runtime=engines.runsc, **where),  # type: ignore[arg-type]
        "runc": RuncRuntime(runtime=engines.runc, **where),  # type: ignore[arg-type]
    }
    try:
        await network.ensure_node()
        yield Sandboxes(engines, network, runtimes, scratch, short)
    finally:
        for runtime in runtimes.values():
            await runtime.remove_all()
        await network.ensure_node_absent()
        # runsc keeps an empty network namespace mounted in its directory.
        await run_command(("umount", str(scratch / "bare" / "null-netns")), check=False)
        shutil.rmtree(scratch, ignore_errors=True)


def _remove_groups(path: str) -> bool:
    """Whether the control groups of a bare sandbox are gone; removes those that are empty."""
    left = False
    for group in Path("/sys/fs/cgroup").glob(f"*{path}"):
        for directory in [*sorted(group.rglob("*/"), reverse=True), group]:
            try:
                directory.rmdir()
            except FileNotFoundError:
                pass
            except OSError:
                left = True
    return not left
