"""How does `shellwego --help` answer at once?

By not importing what it lists: each command is named here with the module it lives in and one line of help, and is
imported when it is called.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import typer
import typer.main
from typer.core import TyperCommand, TyperGroup


@dataclass(frozen=True, slots=True)
class Lazy:
    """`target` is `module:name` of a Typer app or of a function that is a command."""

    target: str
    help: str
    panel: str = ""
    hidden: bool = False

    def load(self, name: str) -> Any:
        module_name, _, attribute = self.target.partition(":")
        found = getattr(importlib.import_module(module_name), attribute)
        if not isinstance(found, typer.Typer):
            app = typer.Typer(add_completion=False, rich_markup_mode=None)
            settings = getattr(found, "context_settings", None)
            app.command(name, context_settings=settings)(found)
            found = app
        command = typer.main.get_command(found)
        command.name = name
        return command


class LazyGroup(TyperGroup):
    """A group whose commands are listed from `lazy` and imported when called."""

    lazy: ClassVar[Mapping[str, Lazy]] = {}

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name, entry in self.lazy.items():
            if name not in self.commands:
                listed = TyperCommand(name, help=entry.help, hidden=entry.hidden, rich_help_panel=entry.panel or None)
                self.add_command(listed, name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if ctx.parent is None and args[0] not in self.commands:
            from shellwego.cli.elsewhere import command_here

            meant = command_here(args[0], self.commands)
            if meant is not None:
                ctx.fail(f"No such command {args[0]!r}. Here it is: shellwego {meant}")
        name, command, rest = super().resolve_command(ctx, args)
        if name is not None and name in self.lazy and type(command) is TyperCommand and command.callback is None:
            command = self.load(name)
        return name, command, rest

    def load(self, name: str) -> Any:
        return self.lazy[name].load(name)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """By panel, in the order of the table."""
        panels: dict[str, list[tuple[str, str]]] = {}
        width = max((len(name) for name in self.list_commands(ctx)), default=0)
        for name in self.list_commands(ctx):
            listed = self.get_command(ctx, name)
            if listed is None or listed.hidden:
                continue
            panel = self.lazy[name].panel if name in self.lazy else ""
            help_text = listed.get_short_help_str(formatter.width - 6 - width)
            panels.setdefault(panel or "Commands", []).append((f"{name:<{width}}", help_text))
        for panel, rows in panels.items():
            with formatter.section(panel):
                formatter.write_dl(rows)
