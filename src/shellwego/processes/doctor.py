"""Can this machine run a cloud, and if not, what is to be done? (`shellwego doctor`)

Each engine is looked up and then tried in earnest. What fails says what to do about it; the exit status is 1 when
something that a cloud needs doesn't work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from typing import Annotated

import httpx
import typer
from pydantic import BaseModel

from shellwego.cli.here import Here, command
from shellwego.core.errors import ShellWeGoError
from shellwego.drivers.engines import trials
from shellwego.drivers.engines.catalogue import ENGINES, Engine, Need, version_text
from shellwego.drivers.engines.places import Source, install_directory
from shellwego.drivers.engines.probe import observe
from shellwego.drivers.engines.trials import Result, Verdict
from shellwego.processes.cloud import load_cloud
from shellwego.processes.commands import DEFAULT_DATA

app = typer.Typer(add_completion=False, rich_markup_mode=None)

_HUB = "https://registry-1.docker.io/v2/"
_HUB_SECONDS = 4.0
_COLOURS = {Verdict.OK: "green", Verdict.WARNING: "yellow", Verdict.FAILED: "red"}


class ResultView(BaseModel):
    """One finding, as `-o json` shows it."""

    check: str
    verdict: str
    said: str
    remedy: str | None


@command(app, "doctor")
async def doctor(
    here: Here,
    data_dir: Annotated[
        Path, typer.Option("--data-dir", envvar="SHELLWEGO_DATA_DIR", help="Whose disk to look at.")
    ] = DEFAULT_DATA,
    http_port: Annotated[int, typer.Option(help="Port that the proxy shall have.", min=1, max=65535)] = 80,
    https_port: Annotated[int, typer.Option(help="TLS port that the proxy shall have.", min=1, max=65535)] = 443,
    api_port: Annotated[int, typer.Option(help="Port that the API shall have.", min=1, max=65535)] = 7080,
    for_tests: Annotated[bool, typer.Option("--for-tests", help="Look for the tests' engines too.")] = False,
) -> int:
    """
    Try everything that a cloud needs of this machine, and say what to do about what is missing.

    Exit status 1 means that a cloud can't run here as it is.

    Example: sudo shellwego doctor
    """
    wanted = [engine for engine in ENGINES if engine.need is Need.CLOUD or for_tests]
    looks: list[Awaitable[Result]] = [asyncio.to_thread(_look, engine) for engine in wanted]
    tries: list[Awaitable[Result]] = [
        trials.try_gvisor(),
        trials.try_runc(),
        trials.try_nftables(),
        trials.try_links(),
        trials.try_haproxy(),
        trials.try_program("buildkitd"),
        trials.try_program("conmon"),
        trials.try_cgroups(),
        trials.try_overlay(),
        trials.try_descriptors(),
        trials.try_disk(data_dir),
        trials.try_disk(install_directory()),
        trials.try_port("0.0.0.0", http_port, "--http-port"),  # noqa: S104 - bound for an instant, never listened on
        trials.try_port("0.0.0.0", https_port, "--https-port"),  # noqa: S104
        trials.try_port("0.0.0.0", api_port, "--api-port"),  # noqa: S104
        _try_hub(),
    ]
    results = [*await asyncio.gather(*looks, *tries), *_waiting_server(data_dir)]
    _show(here, results)
    failed = [each for each in results if each.verdict is Verdict.FAILED]
    warned = [each for each in results if each.verdict is Verdict.WARNING]
    if failed:
        here.output.say(f"{len(failed)} of {len(results)} checks failed: no cloud can run here yet.", style="red")
        return 1
    if warned:
        here.output.say(f"A cloud can run here. Warnings: {len(warned)}, each with what to do above.", style="yellow")
    else:
        here.output.say(f"All {len(results)} checks are well: `shellwego up` starts a cloud.", style="green")
    return 0


def _look(engine: Engine) -> Result:
    observed = observe(engine)
    name = f"engine {engine.name}"
    if not observed.usable:
        return Result(name, Verdict.FAILED, observed.problem, f"`shellwego engines install` ({engine.purpose}).")
    version = version_text(observed.version) if observed.version else "a version that it doesn't tell"
    said = f"{version}, {observed.path}"
    if observed.source is Source.FALLBACK:
        return Result(
            name, Verdict.WARNING, said, f"{observed.warning} `shellwego engines install` tries to do better."
        )
    return Result(name, Verdict.OK, said)


def _waiting_server(data_dir: Path) -> list[Result]:
    """A server that can't begin answers nobody: what it waits for stands beside its socket."""
    try:
        why = load_cloud(data_dir.resolve()).server_waits.read_text()
    except (OSError, ShellWeGoError):
        return []
    return [Result("server", Verdict.FAILED, f"it waits: {why}", "It goes on by itself when that is mended.")]


async def _try_hub() -> Result:
    """Whether public images can be fetched. Nothing depends on it."""
    name = "image hub"
    try:
        async with httpx.AsyncClient(timeout=_HUB_SECONDS) as client:
            answer = await client.get(_HUB)
        if answer.status_code in {200, 401} and "docker-distribution-api-version" in answer.headers:
            return Result(name, Verdict.OK, "Docker Hub answers")
        why = f"Docker Hub answers {answer.status_code}"
    except httpx.HTTPError as error:
        why = f"Docker Hub can't be reached ({type(error).__name__})"
    remedy = (
        "Base images are made here instead (`shellwego images bootstrap`); "
        "`shellwego images map` lets them stand in for public names."
    )
    return Result(name, Verdict.WARNING, why, remedy)


def _show(here: Here, results: list[Result]) -> None:
    if not here.output.for_people:
        views = [ResultView(check=r.name, verdict=r.verdict, said=r.said, remedy=r.remedy or None) for r in results]
        here.output.document([view.model_dump(mode="json") for view in views])
        return
    width = max(len(result.name) for result in results)
    for result in results:
        line = f"{result.verdict.value:<8} {result.name:<{width}}  {' '.join(result.said.split())}"
        here.output.line(line, style="" if result.verdict is Verdict.OK else _COLOURS[result.verdict])
        if result.remedy:
            here.output.line(f"{'':<9}{'':<{width}}  → {result.remedy}")
