"""What can be typed? Every command of a user of a cloud, by name; those of its host join in `processes.commands`."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer
from typer.main import get_command

from shellwego.cli.exits import MEANINGS
from shellwego.cli.here import CaOption, OutputOption, Settings, TokenOption, UrlOption
from shellwego.cli.lazy import Lazy, LazyGroup

COMPLETE_VARIABLE = "_SHELLWEGO_COMPLETE"
"""Set by a shell that asks how a command line may go on."""
APPS, LOOK, ACCOUNT, CLOUD, OTHER = "Apps", "Look inside", "Account", "The cloud", "Other"

USER_COMMANDS: dict[str, Lazy] = {
    "deploy": Lazy("shellwego.cli.deploy:app", "Deploy a folder or an image.", APPS),
    "apps": Lazy("shellwego.cli.apps:app", "Create, list, stop, start, restart and delete apps.", APPS),
    "scale": Lazy("shellwego.cli.scale:app", "Set how many instances of an app run.", APPS),
    "config": Lazy("shellwego.cli.config:app", "Set an app's environment variables.", APPS),
    "releases": Lazy("shellwego.cli.releases:app", "List what was released.", APPS),
    "rollback": Lazy("shellwego.cli.rollback:app", "Go back to an earlier release.", APPS),
    "deployments": Lazy("shellwego.cli.deployments:app", "List, follow and cancel deployments.", APPS),
    "status": Lazy("shellwego.cli.status:app", "Show the whole cloud at a glance.", LOOK),
    "instances": Lazy("shellwego.cli.instances:app", "List instances, their state and why.", LOOK),
    "logs": Lazy("shellwego.cli.logs:app", "Show or follow an app's logs.", LOOK),
    "exec": Lazy("shellwego.cli.exec:app", "Run a command inside a running instance.", LOOK),
    "open": Lazy("shellwego.cli.open:app", "Open an app in the browser.", LOOK),
    "auth": Lazy("shellwego.cli.auth:app", "Sign in and out.", ACCOUNT),
    "tokens": Lazy("shellwego.cli.tokens:app", "Create and revoke API tokens for scripts.", ACCOUNT),
    "images": Lazy("shellwego.cli.images:app", "Map public image names to images of this cloud.", CLOUD),
    "nodes": Lazy("shellwego.cli.nodes:app", "List the machines of the cloud.", CLOUD),
    "organisations": Lazy("shellwego.cli.organisations:app", "List and create organisations (operator).", CLOUD),
    "users": Lazy("shellwego.cli.users:app", "List and create users (operator).", CLOUD),
    "schema": Lazy("shellwego.cli.schema:app", "Print the JSON schema of shellwego.toml.", OTHER),
    "completion": Lazy("shellwego.cli.completion:app", "Print the completion script of a shell.", OTHER),
}

EXAMPLES = """\b
Examples:
  shellwego deploy ./site --name hello
  shellwego logs hello -f
  shellwego scale hello 3 --wait
  shellwego rollback hello"""

EPILOG = "\b\nExit status:\n" + "\n".join(f"  {code.value:<4} {meaning}" for code, meaning in MEANINGS.items())


def build(more: Mapping[str, Lazy] | None = None, *, images: Mapping[str, Lazy] | None = None) -> typer.Typer:
    """
    The whole command line. `more` are commands that only the cloud's own machine has; `images` are such commands of
    the group `images`.
    """

    class Root(LazyGroup):
        lazy: ClassVar[Mapping[str, Lazy]] = {**USER_COMMANDS, **(more or {})}

        def load(self, name: str) -> Any:
            loaded = super().load(name)
            if name == "images":
                for sub, entry in (images or {}).items():
                    loaded.add_command(entry.load(sub), sub)
            return loaded

    app = typer.Typer(
        cls=Root,
        help=f"ShellWeGo: your own cloud.\n\n{EXAMPLES}",
        epilog=EPILOG,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    app.callback()(_root)
    return app


def _root(
    context: typer.Context,
    output: OutputOption = None,
    url: UrlOption = None,
    token: TokenOption = None,
    ca: CaOption = None,
    version: Annotated[bool, typer.Option("--version", "-V", is_eager=True, callback=lambda value: _version(value),
                                          help="Show the version.")] = False,
) -> None:  # fmt: skip
    context.obj = Settings(output, url, token, Path(ca) if ca else None)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"shellwego {importlib.metadata.version('shellwego')}")
        raise typer.Exit


def main(more: Mapping[str, Lazy] | None = None, *, images: Mapping[str, Lazy] | None = None) -> None:
    if COMPLETE_VARIABLE in os.environ:
        from typer.completion import completion_init  # type: ignore[attr-defined]

        completion_init()
    get_command(build(more, images=images))(args=sys.argv[1:], prog_name="shellwego")
