"""What does this machine have of the programs that a cloud stands on? (`shellwego engines list|install|remove`)"""

from __future__ import annotations

import asyncio
import os
from typing import Annotated

import typer
from pydantic import BaseModel

from shellwego.cli.here import Here, command
from shellwego.drivers.engines.catalogue import ENGINES, version_text
from shellwego.drivers.engines.install import install, plan_install, remove_built, wanted_engines
from shellwego.drivers.engines.places import install_directory
from shellwego.drivers.engines.probe import Observation, observe
from shellwego.processes.doctor import app as doctor

__all__ = ["app", "doctor"]

app = typer.Typer(
    help="List and install the programs that a cloud stands on (on its own machine).\n\n"
    "Example: shellwego engines install",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


class EngineView(BaseModel):
    """One engine, as `-o json` shows it."""

    name: str
    purpose: str
    need: str
    ok: bool
    version: str | None
    minimum: str | None
    source: str | None
    path: str | None
    problem: str | None


@command(app, "list")
async def list_engines(here: Here) -> None:
    """
    List every engine: whether it is there, in which version, and from where.

    Example: shellwego engines list -o json
    """
    observed = await asyncio.gather(*(asyncio.to_thread(observe, engine) for engine in ENGINES))
    _show(here, observed)
    lacking = [each for each in observed if not each.usable]
    if lacking:
        here.output.say("`shellwego engines install` installs what is missing; the tests' with --for-tests.")


@command(app, "install")
async def install_engines(
    here: Here,
    for_tests: Annotated[bool, typer.Option("--for-tests", help="Also what the tests and benches use.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
) -> None:
    """
    Install what is missing: Debian's packages, then gVisor and BuildKit, built from their pinned sources.

    Safe to repeat and to interrupt. Packages take root; without it, what is built goes into your own cache.

    Example: sudo shellwego engines install
    """
    if dry_run:
        wanted = wanted_engines(for_tests=for_tests)
        plan = plan_install(await asyncio.gather(*(asyncio.to_thread(observe, engine) for engine in wanted)))
        for package in plan.packages:
            here.output.line(f"install Debian's {package}")
        for engine in plan.modules:
            here.output.line(f"build {engine.name} {engine.pinned} into {install_directory()}")
        if plan.is_noop:
            here.output.say("Nothing is missing.")
        return
    here.if_interrupted = "Nothing is half installed. The same command goes on where it stopped."
    observed = await install(for_tests=for_tests, directory=install_directory(), say=here.output.say)
    if here.output.for_people:
        here.output.say(f"All {len(observed)} engines are there. `shellwego doctor` tries each of them.")
    else:
        _show(here, observed)


@command(app, "remove")
async def remove_engines(here: Here) -> None:
    """
    Remove what was built here. Debian's packages stay: other programs may use them.

    Example: sudo shellwego engines remove
    """
    directory = install_directory()
    await asyncio.to_thread(remove_built, directory)
    here.output.say(f"{directory} holds no engine any more.")


def _show(here: Here, observed: tuple[Observation, ...] | list[Observation]) -> None:
    from shellwego.cli.output import Column

    views = [_view(each) for each in observed]
    columns = [
        Column("ENGINE"),
        Column("NEEDED FOR"),
        Column("STATE"),
        Column("VERSION"),
        Column("FROM"),
        Column("PATH", cut=True),
        Column("PURPOSE", cut=True),
    ]
    rows = [
        (
            view.name,
            view.need,
            "ready" if view.ok else "missing" if view.path is None else "too old",
            view.version or "-",
            view.source or "-",
            view.path or "-",
            view.purpose,
        )
        for view in views
    ]
    here.output.many(views, columns, rows, if_none="There is no engine.")


def _view(each: Observation) -> EngineView:
    return EngineView(
        name=each.engine.name,
        purpose=each.engine.purpose,
        need=each.engine.need.value,
        ok=each.usable,
        version=version_text(each.version) if each.version else None,
        minimum=version_text(each.engine.minimum) if each.engine.minimum else None,
        source=each.source.value if each.source else None,
        path=os.fspath(each.path) if each.path else None,
        problem=each.problem or each.warning or None,
    )
