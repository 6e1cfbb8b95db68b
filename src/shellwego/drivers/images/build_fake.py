"""A builder for tests about something else: no daemon, no sandbox, same promises.

The image's one layer is the source, below /app, so equal sources make equal digests. A file FAIL in the source makes
the build fail, with the file's lines as the last ones of the log; a file WAIT makes it wait until it is cancelled,
too slow, or the file is gone.
"""

from __future__ import annotations

import asyncio
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

from shellwego.core import dockerfiles
from shellwego.core.errors import BuildFailed, InvalidField
from shellwego.core.ids import OrganisationId
from shellwego.drivers.images import base_layouts
from shellwego.drivers.images.build_log import BuildLog, redaction_for
from shellwego.drivers.images.port import BuildLimits, BuildRequest, ImageStore, Resolved

_LOOK_SECONDS = 0.01


class FakeBuilder:
    """`builds` lists the requests it got, in order; `prepared` the organisations it was to make ready for."""

    def __init__(self, store: ImageStore) -> None:
        self._store = store
        self.builds: list[BuildRequest] = []
        self.prepared: list[OrganisationId] = []

    async def build(self, request: BuildRequest, *, on_log: Callable[[str], None]) -> Resolved:
        """See `Builder.build`."""
        self.builds.append(request)
        log = BuildLog(on_log, redaction_for(request))
        if not request.context.is_dir():
            raise InvalidField("context", "is not a folder.")
        mapped = {dockerfiles.familiar_name(name): reference for name, reference in request.bases.items()}
        for name in dockerfiles.base_names(request.dockerfile, request.build_args):
            if dockerfiles.familiar_name(name) in mapped:
                log.say(f"# {name} is served by this cloud's image {mapped[dockerfiles.familiar_name(name)]}")
        log.say("#1 COPY . /app")
        if (request.context / "FAIL").exists():
            for line in (request.context / "FAIL").read_text().splitlines():
                log.say(f"#1 {line}")
            raise BuildFailed("exit code: 1 in step `COPY . /app`", log.last_lines)
        try:
            async with asyncio.timeout(request.limits.seconds):
                while (request.context / "WAIT").exists():  # noqa: ASYNC110 - a file sets no event
                    await asyncio.sleep(_LOOK_SECONDS)
        except TimeoutError as error:
            raise BuildFailed(f"It took longer than {request.limits.seconds} s.", log.last_lines) from error
        work = Path(tempfile.mkdtemp(prefix="shellwego-fake-build-"))
        try:
            with tarfile.open(work / "source.tar", "w") as tar:
                for path in sorted(request.context.rglob("*")):
                    member = tar.gettarinfo(path, arcname=f"app/{path.relative_to(request.context)}")
                    if not (member.isfile() or member.isdir() or member.issym()):
                        continue
                    member.mtime = member.uid = member.gid = 0
                    member.uname = member.gname = ""
                    if member.isfile():
                        with path.open("rb") as file:
                            tar.addfile(member, file)
                    else:
                        tar.addfile(member)
            (work / "layout").mkdir()
            base_layouts.write_base(work / "source.tar", work / "layout", created=0, labels={})
            log.say("#1 DONE")
            return await self._store.import_layout(work / "layout")
        finally:
            shutil.rmtree(work, ignore_errors=True)

    async def prepare(self, organisation: OrganisationId, *, trusted: bool, limits: BuildLimits) -> None:
        """See `Builder.prepare`."""
        self.prepared.append(organisation)

    async def close(self) -> None:
        """See `Builder.close`."""
