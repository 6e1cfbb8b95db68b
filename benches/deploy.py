"""What do we add to a deployment beyond the app's own start and the build itself?"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from benches.measure import alternate, median
from benches.results import Row, ms
from benches.sandboxes import RESOURCES, sandboxes
from benches.start import find_program
from benches.world import EXAMPLES, Bench, CloudUnderTest, now
from shellwego.control.controllers.builds import stand_ins
from shellwego.core.buildplan import plan_build
from shellwego.core.dockerfiles import base_names
from shellwego.core.ids import DeploymentId, OrganisationId, new_id
from shellwego.drivers.images import buildkit
from shellwego.drivers.images.build_log import BuildLog
from shellwego.drivers.images.builder import BuildKitBuilder
from shellwego.drivers.images.port import BuildRequest
from shellwego.drivers.images.source_files import read_source_files
from shellwego.drivers.images.store import DirectoryImageStore
from shellwego.kit.commands import run_command
from shellwego.processes.engines_found import find_engines

AIM_SECONDS = 1.0
TURNS = 3
REST_SECONDS = 2.0
"""Who changes a line thinks for some seconds, too. The cloud links the next image's files meanwhile."""
AMOUNTS = {
    "memory_mib": RESOURCES.memory_mib,
    "cpu_millis": RESOURCES.cpu_millis,
    "pids": RESOURCES.pids,
    "disk_mib": RESOURCES.disk_mib,
}


def run(bench: Bench) -> list[Row]:
    cloud = bench.cloud()
    return asyncio.run(_run(bench, cloud))


async def _run(bench: Bench, cloud: CloudUnderTest) -> list[Row]:
    image = cloud.image("flask")
    program = await find_program(cloud, "flask")
    numbers = itertools.count()

    async def warm() -> float:
        name = f"warm-{next(numbers)}"
        began = now()
        await asyncio.to_thread(cloud.deploy_image, name, image, resources=AMOUNTS)
        return await cloud.answers(name) - began

    async with sandboxes(bench) as here:

        async def start() -> float:
            return await here.start("gvisor", program)

        seen = await alternate(bench.turns(TURNS), {"ours": warm, "boot": start}, rest_seconds=0.3)
        for number in range(next(numbers)):
            cloud.delete(f"warm-{number}")
        rows = [_row(bench, "warm deploy of an image to first 200 through the edge", seen, "the app's own start")]
        return rows + await _redeploys(bench, cloud, start)


async def _redeploys(bench: Bench, cloud: CloudUnderTest, start: Callable[[], Awaitable[float]]) -> list[Row]:
    """`start` is the app's own in the same sandbox: a changed line needs one, whoever deploys it."""
    source = bench.directory / "source"
    shutil.copytree(EXAMPLES / "flask", source)
    line = _OneLine(source / "app.py")
    # What the twin's start has: with less CPU the app itself takes longer.
    amounts: tuple[str, ...] = ("--memory", f"{RESOURCES.memory_mib}m", "--cpu", f"{RESOURCES.cpu_millis}m")
    amounts += ("--pids", f"{RESOURCES.pids}", "--disk", f"{RESOURCES.disk_mib}m")
    deploy = ("deploy", str(source), "--name", "redeploy", "--wait", *amounts)
    await asyncio.to_thread(cloud.running.do, *deploy)

    async def unchanged() -> float:
        began = now()
        await asyncio.to_thread(cloud.running.do, *deploy)
        return now() - began

    async def changed() -> float:
        words = line.change()
        began = now()
        deploying = asyncio.ensure_future(asyncio.to_thread(cloud.running.do, *deploy))
        took = await cloud.answers("redeploy", body=words) - began
        await deploying
        return took

    async with _buildctl(bench, cloud, source) as build:

        async def build_changed() -> float:
            line.change()
            return await build()

        no_change = await alternate(bench.turns(TURNS), {"ours": unchanged, "boot": build})
        sides = {"ours": changed, "boot": build_changed, "start": start}
        one_line = await alternate(bench.turns(TURNS), sides, rest_seconds=REST_SECONDS)
    cloud.delete("redeploy")  # A hundred idle apps of another figure need the processor that it was promised.
    twin = "`buildctl build`"
    return [
        _row(bench, "no-change redeploy of a source folder, command line included", no_change, twin),
        _row(bench, "one-line-change redeploy to first new 200, command line included", one_line, twin),
    ]


def _row(bench: Bench, title: str, seen: dict[str, list[float]], twin: str) -> Row:
    ours, bare = median(seen["ours"]), median(seen["boot"])
    more = median([a - b for a, b in zip(seen["ours"], seen["boot"], strict=True)])
    beside, ratio = f"{twin} {ms(bare)}", f"{more:.2f} s more"
    if "start" in seen:
        both = median([a - b - c for a, b, c in zip(seen["ours"], seen["boot"], seen["start"], strict=True)])
        beside += f", the app's own start {ms(median(seen['start']))}"
        ratio += f"; {both:.2f} s more than both"
    bench.say(f"{title}: {ms(ours)}, {beside}: {ratio}")
    return Row(title, ms(ours), beside, ratio, f"< {AIM_SECONDS:g} s more", more < AIM_SECONDS)


class _OneLine:
    """One line of a program, that can be changed as often as one likes."""

    def __init__(self, path: Path) -> None:
        self._path, self._count, self._text = path, itertools.count(), path.read_text()

    def change(self) -> str:
        """What the app says from now on."""
        words = f"Hello number {next(self._count)},"
        self._path.write_text(self._text.replace("Hello from Flask,", words))
        return words


@contextlib.asynccontextmanager
async def _buildctl(bench: Bench, cloud: CloudUnderTest, source: Path) -> AsyncIterator[Callable[[], Awaitable[float]]]:
    """Seconds of `buildctl build` of the source as our builder would call it, on a daemon of its own that is warm."""
    engines = find_engines()
    directory = bench.directory / "buildctl"
    short = "".join(secrets.choice("abcdefghijklmnopqrstuvwxyz234567") for _ in range(8))
    store = DirectoryImageStore(cloud.running.data / "images")
    builder = BuildKitBuilder(
        directory=directory,
        runtime_directory=Path("/run") / f"swg-bench-{short}",
        prefix=short,
        store=store,
        buildkitd=engines.buildkitd,
        buildctl=engines.buildctl,
        runsc=engines.runsc,
        runc=engines.runc,
        extra_ca=cloud.running.data / "extra-ca.pem",
    )
    plan = plan_build(await asyncio.to_thread(read_source_files, source, also=()))
    request = BuildRequest(
        id=DeploymentId(new_id("deployment", secrets.token_bytes)),
        organisation=OrganisationId(new_id("organisation", secrets.token_bytes)),
        context=source,
        dockerfile=plan.dockerfile,
        bases=stand_ins(base_names(plan.dockerfile, {}), []),
    )
    try:
        await builder.build(request, on_log=lambda _line: None)
        (lane,) = builder._lanes.values()
        work = directory / "bare"
        work.mkdir()
        bases = await builder._hand_over_bases(request, work, BuildLog(lambda _line: None))
        (work / "Dockerfile").write_text(plan.dockerfile)
        numbers = itertools.count()

        async def build() -> float:
            command = buildkit.build_command(
                engines.buildctl,
                socket=lane.settings.socket,
                context=source,
                dockerfile_directory=work,
                output=work / f"output-{next(numbers)}",
                stand_ins=bases,
            )
            began = now()
            await run_command(command, timeout_seconds=120)
            return now() - began

        yield build
    finally:
        await builder.close()
        shutil.rmtree(Path("/run") / f"swg-bench-{short}", ignore_errors=True)
