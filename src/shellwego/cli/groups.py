"""How do the command groups look alike? One way to make them."""

from __future__ import annotations

import asyncio
import datetime as dt

import typer

from shellwego.core.errors import ShellWeGoError

HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

COMPLETION_SECONDS = 1.5


def app_names(incomplete: str) -> list[str]:
    """For the shell's completion: the apps whose name begins so. Nothing where no cloud answers at once."""
    from shellwego.cli.here import Here, Settings
    from shellwego.cli.output import Format, Output

    async def names() -> list[str]:
        here = Here(Settings().with_environment(), Output(Format.TABLE))
        async with asyncio.timeout(COMPLETION_SECONDS), here.cloud() as cloud:
            return [app.name async for app in cloud.apps.list() if app.name.startswith(incomplete)]

    try:
        return asyncio.run(names())
    except (ShellWeGoError, OSError):  # TimeoutError is an OSError.
        return []


App = typer.Argument(metavar="NAME", help="The app, by name or id.", show_default=False, autocompletion=app_names)
Wait = typer.Option("--wait", "-w", help="Return when it is so; fail if it can't be.")


def group(about: str) -> typer.Typer:
    """A noun, with its verbs below it."""
    app = typer.Typer(
        help=about, no_args_is_help=True, add_completion=False, rich_markup_mode=None, context_settings=HELP
    )
    app.callback()(lambda: None)  # With it, a noun of one verb stays a noun.
    return app


def single() -> typer.Typer:
    """A command that stands by itself."""
    return typer.Typer(add_completion=False, rich_markup_mode=None, context_settings=HELP)


def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
