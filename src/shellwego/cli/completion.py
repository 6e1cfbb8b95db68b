"""`shellwego completion`: what a shell needs to complete our commands."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from shellwego.cli.groups import single
from shellwego.cli.here import Here, command

app = single()


class Shell(StrEnum):
    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


@command(app, "completion")
async def completion(
    here: Here, shell: Annotated[Shell, typer.Argument(metavar="bash|zsh|fish", show_default=False)]
) -> None:
    """
    Print the completion script of a shell.

    \b
    Examples:
      shellwego completion bash > ~/.local/share/bash-completion/completions/shellwego
      shellwego completion zsh > ~/.zfunc/_shellwego
      shellwego completion fish > ~/.config/fish/completions/shellwego.fish
    """
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    here.output.raw(get_completion_script(prog_name="shellwego", complete_var="_SHELLWEGO_COMPLETE", shell=shell.value))
