"""A server's builder in a process of its own, for test_builder_faults.py to kill: one build, then the end.

Run as `python build_child.py DIRECTORY PREFIX [SECRET]`; SHELLWEGO_FAULTS says where it ends before its time. With a
secret, a step prints it.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.engines import engine

from shellwego.core.ids import DeploymentId, OrganisationId
from shellwego.drivers.images.builder import BuildKitBuilder
from shellwego.drivers.images.port import BuildLimits, BuildRequest
from shellwego.drivers.images.store import DirectoryImageStore


async def main(directory: Path, prefix: str, secret: str = "") -> None:
    store = DirectoryImageStore(directory / "store")
    builder = BuildKitBuilder(
        directory=directory / "builder",
        runtime_directory=Path("/run/shellwego") / prefix,
        prefix=prefix,
        store=store,
        buildkitd=engine("buildkitd"),
        buildctl=engine("buildctl"),
        runsc=engine("runsc"),
        runc=engine("runc"),
        cache_mib=256,
    )
    base = await store.resolve("base/busybox")
    request = BuildRequest(
        id=DeploymentId("dep_aaaaaaaaaaaaaaaaaaaa"),
        organisation=OrganisationId("org_aaaaaaaaaaaaaaaaaaaa"),
        context=directory / "context",
        dockerfile="FROM base\nCOPY . /app\nRUN echo built > /built\n"
        + ("RUN --mount=type=secret,id=token cat /run/secrets/token\n" if secret else ""),
        secrets={"token": secret.encode()} if secret else {},
        bases={"base": base.digest},
        limits=BuildLimits(memory_mib=512, cpu_millis=2000, disk_mib=256, seconds=60),
    )
    image = await builder.build(request, on_log=lambda line: print(line, flush=True))  # noqa: T201
    await builder.close()
    print(image.digest)  # noqa: T201


asyncio.run(main(Path(sys.argv[1]), *sys.argv[2:]))
