"""How does a source become an image?

BuildKit builds it, in a lane of its organisation (`buildkit_lane`), from bases that our own store hands over; the
result goes into that store, and nothing else of the build is kept but its cache. One build uses a lane at a time, and
a few lanes run at once, so a busy builder makes builds wait and not the running apps. A build that is cancelled, too
slow or out of memory takes its whole lane with it: that is the only way to be sure that nothing of it runs on.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from shellwego.core import dockerfiles
from shellwego.core.errors import BuildFailed, DiskFull, InvalidField
from shellwego.core.ids import OrganisationId
from shellwego.core.networks import AllowedNetwork
from shellwego.drivers.images import buildkit
from shellwego.drivers.images.build_log import BuildLog, redaction_for
from shellwego.drivers.images.buildkit_cgroup import BuildGroup
from shellwego.drivers.images.buildkit_ends import cgroup_parent, end_stale_lanes, forget_unforgotten
from shellwego.drivers.images.buildkit_lane import Lane, LaneSettings, Programs
from shellwego.drivers.images.buildkit_watch import free_mib, watch_memory, watch_room
from shellwego.drivers.images.port import BuildLimits, BuildRequest, ImageStore, Resolved
from shellwego.kit.faults import fault_point, reach
from shellwego.kit.files import replace_file

PREPARED = fault_point("builder.prepared")
STARTED = fault_point("builder.started")
BUILT = fault_point("builder.built")
IMPORTED = fault_point("builder.imported")

_SECRET_ID = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_UNKNOWN_IMAGE = re.compile(r"failed to resolve source metadata for ([^\s:]+(?::[^\s:]+)?):")
_LEAST_FREE_MIB = 512
"""No build begins with less room on the disk under the lanes, which is everybody's."""
_HOST_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_NO_SPACE = re.compile(r"no space left on device|ENOSPC|disk quota exceeded", re.IGNORECASE)
_BROKEN_DISK = re.compile(r"read-only file system|input/output error|structure needs cleaning", re.IGNORECASE)
"""What steps meet on a lane's own file system when the disk under it is full: its kernel stops writing to it."""
_REPORT_BYTES = 32 << 20


class BuildKitBuilder:
    """
    The builder on BuildKit. `directory` keeps caches, `runtime_directory` sockets; `prefix` is the cloud's short name.

    `extra_ca` is a PEM file of the operator's that every step trusts beside the usual authorities. `reachable` are
    private networks that steps may reach. `concurrent` bounds how many builds run at once.
    """

    def __init__(
        self,
        *,
        directory: Path,
        runtime_directory: Path,
        prefix: str,
        store: ImageStore,
        buildkitd: Path,
        buildctl: Path,
        runsc: Path,
        runc: Path,
        extra_ca: Path | None = None,
        reachable: tuple[AllowedNetwork, ...] = (),
        cache_mib: int = 5 * 1024,
        total_cache_mib: int = 40 * 1024,
        concurrent: int = 1,
    ) -> None:
        self._directory = directory
        self._runtime_directory = runtime_directory
        self._prefix = prefix
        self._store = store
        self._programs = Programs(buildkitd=buildkitd, buildctl=buildctl, runsc=runsc, runc=runc)
        self._extra_ca = extra_ca
        self._reachable = reachable
        self._cache_mib = cache_mib
        self._total_cache_mib = total_cache_mib
        self._concurrent = concurrent
        self._slots = asyncio.Semaphore(concurrent)
        self._lanes: dict[str, Lane] = {}
        self._in_use: dict[str, asyncio.Lock] = {}
        self._starting = asyncio.Lock()
        self._swept = False

    async def build(self, request: BuildRequest, *, on_log: Callable[[str], None]) -> Resolved:
        """See `Builder.build`."""
        log = BuildLog(on_log, redaction_for(request))
        _check(request)
        work = self._directory / "work" / request.id
        async with self._lane_for(request, log) as lane:
            done = False
            if request.secrets:
                await asyncio.to_thread(lane.expect_secrets)
            try:
                await asyncio.to_thread(_fresh_directory, work)
                output = await self._run(request, lane, work, log)
                await reach(BUILT)
                done = True
                resolved = await self._store.import_layout(output)
                await reach(IMPORTED)
                return resolved
            except BuildFailed:
                done = True
                raise
            finally:
                if not done or not await lane.is_quiet():
                    await lane.end()
                if request.secrets:
                    await lane.forget_output()
                await asyncio.to_thread(shutil.rmtree, work, ignore_errors=True)

    async def prepare(self, organisation: OrganisationId, *, trusted: bool, limits: BuildLimits) -> None:
        """See `Builder.prepare`."""
        name = lane_name(organisation, trusted=trusted)
        in_use = self._in_use.setdefault(name, asyncio.Lock())
        if in_use.locked() or self._slots.locked():
            return  # Whoever builds now comes first, and has made ready what can be.
        async with in_use, self._slots:
            await self._running_lane(name, trusted=trusted, limits=limits)

    async def end_stale(self) -> tuple[str, ...]:
        """End what a killed server left running. Called by the first build; a server calls it when it starts."""
        running = [name for name, lane in self._lanes.items() if lane.is_running]
        if not running:
            await asyncio.to_thread(shutil.rmtree, self._directory / "work", ignore_errors=True)
        ended = await end_stale_lanes(self._prefix, running=running)
        await asyncio.to_thread(forget_unforgotten, self._directory / "lanes", running=running)
        self._swept = True
        return ended

    async def forget(self, organisation: OrganisationId) -> None:
        """Nothing of an organisation's caches is left. Waits for its running builds."""
        for trusted in (False, True):
            name = lane_name(organisation, trusted=trusted)
            async with self._in_use.setdefault(name, asyncio.Lock()):
                lane = self._lanes.pop(name, None)
                if lane is not None:
                    await lane.end()
                await asyncio.to_thread(shutil.rmtree, self._directory / "lanes" / name, ignore_errors=True)

    async def close(self) -> None:
        """See `Builder.close`."""
        for lane in list(self._lanes.values()):
            await lane.end(gently=True)
        self._lanes.clear()
        await asyncio.to_thread(BuildGroup(cgroup_parent(self._prefix) / "x").remove_empty_parents)
        with contextlib.suppress(OSError):
            (self._runtime_directory / "build").rmdir()

    @contextlib.asynccontextmanager
    async def _lane_for(self, request: BuildRequest, log: BuildLog) -> AsyncIterator[Lane]:
        name = lane_name(request.organisation, trusted=request.trusted)
        in_use = self._in_use.setdefault(name, asyncio.Lock())
        if in_use.locked() or self._slots.locked():
            log.say("# Waiting until another build has ended")
        async with in_use, self._slots:
            yield await self._running_lane(name, trusted=request.trusted, limits=request.limits)

    async def _running_lane(self, name: str, *, trusted: bool, limits: BuildLimits) -> Lane:
        """The caller holds the lane and a slot."""
        async with self._starting:
            if not self._swept:
                await self.end_stale()
            lane = await self._prepared_lane(name, trusted=trusted, limits=limits)
        await lane.ensure_running(memory_mib=limits.memory_mib, cpu_millis=limits.cpu_millis)
        return lane

    async def _prepared_lane(self, name: str, *, trusted: bool, limits: BuildLimits) -> Lane:
        """The lane of that name, others ended so that no more than `concurrent` daemons hold memory."""
        idle = [other for other in self._lanes if other != name and not self._in_use[other].locked()]
        while idle and len(self._lanes) - (name in self._lanes) >= self._concurrent:
            await self._lanes.pop(idle.pop()).end(gently=True)
        settings = LaneSettings(
            name=name,
            prefix=self._prefix,
            directory=self._directory / "lanes" / name,
            runtime_directory=self._runtime_directory / "build" / name,
            trusted=trusted,
            # A build has its whole limit for itself even when the cache is as large as it may be.
            storage_mib=limits.disk_mib + self._cache_mib,
            cache_mib=self._cache_mib,
            certificates=await asyncio.to_thread(self._ensure_certificates),
            reachable=self._reachable,
        )
        known = self._lanes.get(name)
        if known is not None and known.settings == settings:
            return known
        if known is not None:
            await known.end(gently=True)
        await asyncio.to_thread(self._make_room, name)
        lane = self._lanes[name] = Lane(settings, self._programs)
        return lane

    async def _run(self, request: BuildRequest, lane: Lane, work: Path, log: BuildLog) -> Path:
        bases = await self._hand_over_bases(request, work, log)
        written, output = work / "dockerfile", work / "image"
        written.mkdir()
        (written / "Dockerfile").write_text(dockerfiles.without_syntax_line(request.dockerfile))
        secrets: dict[str, int] = {}
        try:
            for identifier, value in request.secrets.items():
                secrets[identifier] = _in_memory(value)
            command = buildkit.build_command(
                self._programs.buildctl,
                socket=lane.settings.socket,
                context=request.context,
                dockerfile_directory=written,
                output=output,
                stand_ins=bases,
                build_args=request.build_args,
                secrets=secrets,
                target=request.target,
                no_cache=request.no_cache,
            )
            await reach(PREPARED)
            killed_before = lane.group.kills_by_memory()
            client = await lane.spawn(
                command, env={"HOME": "/nonexistent", "PATH": "/nonexistent"}, descriptors=secrets.values()
            )
        finally:
            for descriptor in secrets.values():
                os.close(descriptor)
        await reach(STARTED)
        out_of_room = asyncio.Event()
        try:
            async with asyncio.timeout(request.limits.seconds), asyncio.TaskGroup() as tasks:
                watch = tasks.create_task(watch_memory(lane.group, killed_before), name="watch a build's memory")
                room = tasks.create_task(
                    watch_room(lane.group, self._directory, out_of_room), name="watch the room for a build"
                )
                for stream in (client.stdout, client.stderr):
                    assert stream is not None
                    tasks.create_task(_read_report(stream, log), name="read a build's report")
                status = await client.wait()
                watch.cancel()
                room.cancel()
        except TimeoutError as error:
            log.finish()
            why = f"It took longer than {request.limits.seconds} s, the limit of a build."
            log.say(f"ERROR: {why}")
            await lane.end()
            raise BuildFailed(why, log.last_lines) from error
        finally:
            if client.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    client.kill()
                await client.wait()
        log.finish()
        if status != 0:
            out_of_memory = lane.group.kills_by_memory() > killed_before
            if out_of_memory:
                await lane.end()
            failure = (
                DiskFull("building an image")
                if out_of_room.is_set()
                else self._failure(request, log, out_of_memory=out_of_memory)
            )
            if isinstance(failure, DiskFull):
                # What could not be written has damaged the lane's file system, and what it holds is the room we lack.
                await lane.forget_storage()
            raise failure
        return output

    async def _hand_over_bases(self, request: BuildRequest, work: Path, log: BuildLog) -> tuple[buildkit.StandIn, ...]:
        """Every mapped image that the Dockerfile names, as a layout for BuildKit to start from."""
        mapped = {dockerfiles.familiar_name(name): reference for name, reference in request.bases.items()}
        stand_ins: list[buildkit.StandIn] = []
        layouts: dict[str, tuple[Path, str]] = {}
        for name in dockerfiles.base_names(request.dockerfile, request.build_args):
            reference = mapped.get(dockerfiles.familiar_name(name))
            if reference is None:
                continue
            if reference not in layouts:
                layout = work / "bases" / str(len(layouts))
                layout.parent.mkdir(exist_ok=True)
                await self._store.export_layout(reference, layout)
                layouts[reference] = layout, await asyncio.to_thread(_only_digest, layout)
                await asyncio.to_thread(_offer_blobs, layout, work / "image")
            stand_ins.append(buildkit.StandIn(name, *layouts[reference]))
            digest = layouts[reference][1]
            shown = reference if digest in reference else f"{reference}@{digest}"
            log.say(f"# {name} is served by this cloud's image {shown}")
        return tuple(stand_ins)

    def _failure(self, request: BuildRequest, log: BuildLog, *, out_of_memory: bool) -> Exception:
        limits = request.limits
        step = f" in step `{log.failed_step}`" if log.failed_step else ""
        text = "\n".join((log.failure or "", *log.last_lines))
        unknown = _UNKNOWN_IMAGE.search(text)
        if out_of_memory:
            why = f"It ran out of memory{step}: the limit of a build is {limits.memory_mib} MiB."
        elif free_mib(self._directory) < _LEAST_FREE_MIB and (_NO_SPACE.search(text) or _BROKEN_DISK.search(text)):
            return DiskFull("building an image")
        elif _NO_SPACE.search(text):
            why = f"It ran out of disk space{step}: the limit of a build is {limits.disk_mib} MiB."
        elif unknown is not None:
            name = dockerfiles.familiar_name(unknown[1])
            why = (
                f"Image {name!r} can't be fetched from its registry, and no image of this cloud stands in for it. "
                f"An operator can choose one: `shellwego images map {name} IMAGE`. ({log.failure})"
            )
        else:
            why = f"{log.failure or 'BuildKit ended without saying why'}{step}"
        log.say(f"ERROR: {why}")
        return BuildFailed(log.clean(why), log.last_lines)

    def _ensure_certificates(self) -> Path | None:
        """The file of authorities that every step trusts; None where the image's own serve."""
        if self._extra_ca is None:
            return None
        extra = self._extra_ca.read_bytes()
        usual = _HOST_CERTIFICATES.read_bytes() if _HOST_CERTIFICATES.exists() else b""
        content = usual if extra in usual else usual.rstrip(b"\n") + b"\n" + extra
        path = self._directory / "certificates.pem"
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not path.exists() or path.read_bytes() != content:
            replace_file(path, content, mode=0o644)
        return path

    def _make_room(self, name: str) -> None:
        """Throw away the caches that were unused for the longest until all together fit, with room for one more."""
        if free_mib(self._directory) < _LEAST_FREE_MIB:
            raise DiskFull("preparing a build")
        caches = [p for p in (self._directory / "lanes").glob("*/storage.ext4") if p.parent.name not in self._lanes]
        caches.sort(key=lambda path: path.stat().st_mtime)
        used = {path: path.stat().st_blocks * 512 >> 20 for path in caches}
        while caches and sum(used.values()) > self._total_cache_mib:
            oldest = caches.pop(0)
            del used[oldest]
            if oldest.parent.name != name:
                shutil.rmtree(oldest.parent, ignore_errors=True)


def lane_name(organisation: OrganisationId, *, trusted: bool) -> str:
    """The name of an organisation's lane: 60 bits, in letters that every part of the host takes."""
    digest = hashlib.sha256(f"{organisation}/{'trusted' if trusted else 'sandboxed'}".encode()).digest()
    return base64.b32encode(digest).decode().lower()[:12]


def _check(request: BuildRequest) -> None:
    for identifier in request.secrets:
        if _SECRET_ID.fullmatch(identifier) is None:
            raise InvalidField("build.secrets", f"{identifier[:60]!r} is no secret id: use letters, digits, _ . and -.")
    buildkit.check_build_args(request.build_args)
    if not request.context.is_dir() or request.context.is_symlink():
        raise InvalidField("context", "is not a folder.")


def _fresh_directory(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True, mode=0o700)


def _in_memory(value: bytes) -> int:
    """A descriptor that reads as `value` and is on no disk."""
    descriptor = os.memfd_create("build-secret")
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(value)
    return descriptor


def _offer_blobs(layout: Path, output: Path) -> None:
    """The export finds the base's layers where it would write them, and writes only the others."""
    for blob in (layout / "blobs").glob("*/*"):
        link = output / blob.relative_to(layout)
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            os.link(blob, link)


def _only_digest(layout: Path) -> str:
    manifests = json.loads((layout / "index.json").read_bytes())["manifests"]
    return str(manifests[0]["digest"])


async def _read_report(stream: asyncio.StreamReader, log: BuildLog) -> None:
    held = b""
    while piece := await stream.read(1 << 16):
        *whole, held = (held + piece).split(b"\n")
        for line in whole:
            log.feed(line)
        if len(held) > _REPORT_BYTES:
            held = b""
    if held:
        log.feed(held)
