"""How do the command groups look alike? One way to make them."""

from __future__ import annotations

import datetime as dt

import typer

HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

App = typer.Argument(metavar="NAME", help="The app, by name or id.", show_default=False)
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
