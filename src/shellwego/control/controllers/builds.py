"""How does a queued deployment get its image?

A source is unpacked, looked at and built; an image reference is resolved to a digest. Then its release is written and
the rollout begins. Work under way lives in tasks; what the database calls under way without a task was interrupted by
our own end, and starts again, a bounded number of times.
"""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
import shlex
import shutil
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from shellwego.control.controllers.concerns import concerning
from shellwego.control.services import deployments as service
from shellwego.control.services.sealing import options_of
from shellwego.control.services.shapes import Found
from shellwego.control.store import Store
from shellwego.control.store.records import DeploymentRecord, EventRecord, ImageMappingRecord, SourceRecord
from shellwego.core.buildplan import BuildPlan, plan_build
from shellwego.core.deployments import DeploymentState
from shellwego.core.dockerfiles import base_names, familiar_name
from shellwego.core.errors import (
    BuildFailed,
    Conflict,
    DiskFull,
    NotFound,
    RegistryUnavailable,
    ShellWeGoError,
    Unavailable,
)
from shellwego.core.ids import DeploymentId
from shellwego.drivers.images.port import Builder, BuildLimits, BuildRequest, Credentials, ImageStore, Resolved
from shellwego.drivers.images.source_files import read_source_files
from shellwego.drivers.kms.port import Kms
from shellwego.kit.disks import FULL
from shellwego.kit.faults import fault_point, reach

log = structlog.get_logger()

_TAKEN = fault_point("server.build.taken")
_UNPACKED = fault_point("server.build.unpacked")
_BUILT = fault_point("server.build.built")
_RESOLVED = fault_point("server.build.resolved")
_RELEASED = fault_point("server.build.released")

ATTEMPTS = 3
RESOLVE_SECONDS = 120.0
_WORKING = frozenset({DeploymentState.QUEUED, DeploymentState.BUILDING, DeploymentState.RESOLVING})

_CONCERN = ("app.", "deployment.")
"""Events of these may begin or end a build; instances and nodes come and go without one."""

Unpack = Callable[[Path, str, Path], Awaitable[None]]
"""Unpack an uploaded source (path, sha256) into a new directory. Raises InvalidField, DiskFull."""


@dataclass(frozen=True, slots=True)
class BuildPlaces:
    """`sources` holds uploads, `work` what is unpacked, `logs` a build log per deployment."""

    sources: Path
    work: Path
    logs: Path


def concern_builds(events: Collection[EventRecord]) -> bool:
    """Whether the controller should look at once."""
    return bool(concerning(events, _CONCERN))


class BuildsController:
    """Run `once` in a loop inside the task group `tasks`, which owns the builds."""

    def __init__(
        self,
        store: Store,
        kms: Kms,
        *,
        images: ImageStore,
        builder: Builder,
        unpack: Unpack,
        places: BuildPlaces,
        tasks: asyncio.TaskGroup,
        limits: BuildLimits | None = None,
    ) -> None:
        self._store, self._kms = store, kms
        self._images, self._builder, self._unpack, self._places = images, builder, unpack, places
        self._tasks = tasks
        self._limits = limits or BuildLimits()
        self._running: dict[DeploymentId, asyncio.Task[None]] = {}

    async def once(self) -> None:
        """Start what waits, cancel what was ended from outside."""
        async with self._store.reading() as work:
            unfinished = {d.id: d for d in await work.for_the_cloud().deployments.unfinished() if d.state in _WORKING}
        for id, task in self._running.items():
            if id not in unfinished:
                task.cancel()
        for id, deployment in unfinished.items():
            if id not in self._running:
                task = self._tasks.create_task(self._prepare(deployment), name=f"prepare {id}")
                self._running[id] = task
                task.add_done_callback(lambda _task, id=id: self._running.pop(id, None))  # type: ignore[misc]

    async def _prepare(self, deployment: DeploymentRecord) -> None:
        """Bring one deployment to its release, or to its failure."""
        try:
            if deployment.attempt >= ATTEMPTS:
                raise BuildFailed(f"it was interrupted {ATTEMPTS} times by an end of the server.")
            deployment = await self._take(deployment)
            await reach(_TAKEN)
            if deployment.source is not None:
                resolved, found = await self._build(deployment)
                await reach(_BUILT)
            else:
                resolved, found = await self._resolve(deployment)
                await reach(_RESOLVED)
            async with self._store.writing() as work:
                await service.start_release(work, self._kms, deployment, resolved.reference, found)
            await reach(_RELEASED)
        except Conflict as error:
            log.info("build.overtaken", deployment=deployment.id, why=str(error))
        except Unavailable as error:
            # The database is away: nothing can be written now, so the next round finds it interrupted and goes on.
            log.warning("build.interrupted", deployment=deployment.id, error=str(error))
        except ShellWeGoError as error:
            await self._fail(deployment, error)
        except OSError as error:
            log.warning("build.files_failed", deployment=deployment.id, error=repr(error))
            full = error.errno in FULL
            await self._fail(
                deployment,
                DiskFull("preparing a build")
                if full
                else BuildFailed(f"the server's disk: {error.strerror or error}."),
            )
        except Exception as error:  # A bug of ours must not leave a deployment under way for ever.
            log.exception("build.broken", deployment=deployment.id)
            await self._fail(
                deployment, BuildFailed(f"an error of ShellWeGo's own ({type(error).__name__}); see its log.")
            )

    async def _take(self, deployment: DeploymentRecord) -> DeploymentRecord:
        state = DeploymentState.BUILDING if deployment.source is not None else DeploymentState.RESOLVING
        async with self._store.writing() as work:
            return await service.begin(work, deployment, state)

    async def _fail(self, deployment: DeploymentRecord, error: ShellWeGoError) -> None:
        log.info("build.failed", deployment=deployment.id, code=error.code, why=str(error))
        try:
            async with self._store.writing() as work:
                await service.fail_with(work, deployment, error)
        except Conflict:
            pass  # Cancelled or superseded meanwhile.
        except ShellWeGoError as unwritten:
            # Nobody can be told now. The next round finds it interrupted; raised here it would end the whole server.
            log.warning("build.end_not_written", deployment=deployment.id, error=str(unwritten))

    # --- images -----------------------------------------------------------------------------------------------------

    async def _resolve(self, deployment: DeploymentRecord) -> tuple[Resolved, Found]:
        assert deployment.image_reference is not None
        options = await options_of(self._kms, deployment)
        login = options.get("registry_login")
        credentials = Credentials(login["username"], login["password"]) if login else None
        reference = (await self._stand_ins((deployment.image_reference,))).get(
            deployment.image_reference, deployment.image_reference
        )
        try:
            async with asyncio.timeout(RESOLVE_SECONDS):
                resolved = await self._images.resolve(reference, credentials=credentials)
        except TimeoutError as error:
            raise RegistryUnavailable(reference.split("/")[0], f"no answer in {RESOLVE_SECONDS:g} s.") from error
        if credentials is not None:
            # The login is forgotten when the deployment ends; an agent must not need it later.
            await self._images.ensure(resolved.reference, credentials=credentials)
        return resolved, Found(exposed_ports=resolved.config.exposed_ports)

    async def _stand_ins(self, names: tuple[str, ...]) -> dict[str, str]:
        """Which of these names have an image of this cloud standing in for them."""
        async with self._store.reading() as work:
            mappings = await work.image_mappings.all()
        return stand_ins(names, mappings)

    # --- sources ----------------------------------------------------------------------------------------------------

    async def _build(self, deployment: DeploymentRecord) -> tuple[Resolved, Found]:
        async with self._store.reading() as work:
            source = await work.for_the_cloud().sources.find(str(deployment.source))
        if source is None:
            raise NotFound("source", str(deployment.source))
        context = self._places.work / deployment.id
        await asyncio.to_thread(_fresh, context)
        try:
            with _BuildLog(self._places.logs / f"{deployment.id}.log") as out:
                return await self._build_in(deployment, source, context / "source", out)
        finally:
            await asyncio.to_thread(shutil.rmtree, context, ignore_errors=True)

    async def _build_in(
        self, deployment: DeploymentRecord, source: SourceRecord, context: Path, out: _BuildLog
    ) -> tuple[Resolved, Found]:
        request: Mapping[str, Any] = deployment.request.get("build") or {}
        trusted = bool(request.get("trusted"))
        preparing = self._tasks.create_task(
            self._prepare_builder(deployment, trusted=trusted), name=f"builder {deployment.id}"
        )
        try:
            await self._unpack(self._places.sources / source.path, source.sha256, context)
            await asyncio.wait([preparing])
        finally:
            preparing.cancel()
        await reach(_UNPACKED)
        plan = await asyncio.to_thread(_plan, context, request.get("dockerfile"), _commands(deployment.request))
        for note in plan.notes:
            out.write(note)
        options = await options_of(self._kms, deployment)
        arguments: dict[str, str] = options.get("build_args", {})
        bases = await self._stand_ins(base_names(plan.dockerfile, arguments))
        resolved = await self._builder.build(
            BuildRequest(
                id=deployment.id,
                organisation=deployment.organisation,
                context=context,
                dockerfile=plan.dockerfile,
                bases=bases,
                build_args=arguments,
                secrets={name: value.encode() for name, value in options.get("build_secrets", {}).items()},
                target=request.get("target"),
                trusted=trusted,
                no_cache=bool(request.get("no_cache")),
                limits=self._limits,
            ),
            on_log=out.write,
        )
        return resolved, Found(commands=plan.processes, exposed_ports=resolved.config.exposed_ports)

    async def _prepare_builder(self, deployment: DeploymentRecord, *, trusted: bool) -> None:
        """While the source is unpacked. What goes wrong goes wrong in the build again, which can say so."""
        try:
            await self._builder.prepare(deployment.organisation, trusted=trusted, limits=self._limits)
        except (ShellWeGoError, OSError) as error:
            log.info("builder.not_prepared", deployment=deployment.id, why=repr(error))
        except Exception:  # Not even a bug of ours may end the tasks of everybody, which it would here.
            log.exception("builder.preparing_broke", deployment=deployment.id)


OWN_BASE = "shellwego/base-"
"""How the Dockerfiles that we write name this cloud's base images; `shellwego/base-python` is `base/python`."""


def stand_ins(names: tuple[str, ...], mappings: list[ImageMappingRecord]) -> dict[str, str]:
    """
    The image that stands in for each name, by the longest pattern that fits: the more somebody wrote, the more they
    meant it. Our own bases always stand for themselves. Pure.
    """
    found = {name: f"base/{name.removeprefix(OWN_BASE)}" for name in names if name.startswith(OWN_BASE)}
    for name in names:
        spellings = {name, familiar_name(name)}
        fitting = [m for m in mappings if any(fnmatch.fnmatchcase(s, m.pattern) for s in spellings)]
        if fitting:
            found[name] = max(fitting, key=lambda m: (len(m.pattern), m.pattern)).image
    return found


def _plan(context: Path, dockerfile: str | None, commands: Mapping[str, str]) -> BuildPlan:
    """What to build, from the files of the source. Raises InvalidField."""
    files = read_source_files(context, also=() if dockerfile is None else (dockerfile,))
    return plan_build(files, dockerfile=dockerfile, processes=commands)


def _commands(request: Mapping[str, Any]) -> dict[str, str]:
    """The commands that were asked for, by process type: a source need not say again how it starts."""
    found = {}
    for name, shape in (request.get("processes") or {}).items():
        command = shape.get("command")
        if command:
            found[name] = command if isinstance(command, str) else shlex.join(command)
    return found


def _fresh(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True, mode=0o700)


class _BuildLog:
    """A build's log file, written line by line as it happens: whoever follows it reads the file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> _BuildLog:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._file = self._path.open("a", encoding="utf-8", errors="replace")
        self._path.chmod(0o600)
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # What `write` could not write is tried once more.
            self._file.close()

    def write(self, line: str) -> None:
        try:
            self._file.write(line.rstrip("\n") + "\n")
            self._file.flush()
        except OSError as error:  # The build has a disk of its own and may well come to its end.
            log.warning("build.log_not_written", file=self._path.name, error=repr(error))
