"""`shellwego exec`: a command inside a running instance, as if it ran here."""

from __future__ import annotations

import sys
from collections.abc import Collection
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperOption

from shellwego.cli.errors import Failed, explain
from shellwego.cli.groups import HELP, single
from shellwego.cli.here import Here, command
from shellwego.core.apps import WEB
from shellwego.core.ids import is_id
from shellwego.core.instances import InstanceGoal, InstanceState

if TYPE_CHECKING:
    from shellwego.client import Cloud

app = single()

_ALIVE = (InstanceState.HEALTHY, InstanceState.UNHEALTHY, InstanceState.STARTING)
"""Where a process is there to join, the best first."""


_NOT_RUN, _NOT_FOUND = 126, 127
"""As a shell says of a command that it can't run or find (POSIX, 2.8.2)."""


def with_separator(args: list[str], takes_value: Collection[str]) -> list[str]:
    """The arguments with `--` before the command, wherever it begins: what follows it is the command's own."""
    seen_target = False
    at = 0
    while at < len(args) and args[at] != "--":
        if args[at].startswith("-") and args[at] != "-":
            at += 2 if args[at] in takes_value else 1
        elif seen_target:
            return [*args[:at], "--", *args[at:]]
        else:
            seen_target = True
            at += 1
    return args


class ExecCommand(TyperCommand):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        options = [p for p in self.params if isinstance(p, TyperOption) and not p.is_flag]
        return super().parse_args(ctx, with_separator(args, {name for p in options for name in p.opts}))


@command(app, "exec", cls=ExecCommand, context_settings=HELP)
async def run(
    here: Here,
    target: Annotated[
        str, typer.Argument(metavar="NAME|INSTANCE", help="An app (one of its instances is taken) or an instance.",
                            show_default=False)
    ],
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="-- COMMAND", help="Without one: /bin/sh.", show_default=False),
    ] = None,
    process: Annotated[
        str | None, typer.Option("--process", "-p", metavar="TYPE", help="An instance of this process type.")
    ] = None,
    tty: Annotated[
        bool | None,
        typer.Option("--tty/--no-tty", "-t/-T", show_default=False,
                     help="With a terminal. By default when stdin and stdout are one."),
    ] = None,
    no_stdin: Annotated[bool, typer.Option("--no-stdin", help="Leave stdin alone: in a shell's loop, say.")] = False,
) -> int:  # fmt: skip
    """
    Run a command inside a running instance. Its exit status becomes ours.

    \b
    Examples:
      shellwego exec hello
      shellwego exec hello -- python manage.py migrate
      shellwego exec hello -- cat /etc/os-release > os-release
      shellwego exec ins_abcdefghijklmnopqrst -- ps aux
    """
    from shellwego.cli.terminal import run_here

    with_terminal = sys.stdin.isatty() and sys.stdout.isatty() if tty is None else tty
    from shellwego.client import Refused

    async with here.cloud() as cloud:
        instance = await _instance(cloud, target, process)
        try:
            return await run_here(
                cloud, instance, words or ["/bin/sh"], with_terminal=with_terminal, with_input=not no_stdin
            )
        except Refused as error:
            if error.code != "start_failed":
                raise
            explain(error, here.output)
            return _NOT_FOUND if "not found" in str(error) else _NOT_RUN


async def _instance(cloud: Cloud, target: str, process: str | None) -> str:
    if is_id(target, "instance"):
        return target
    app_found = await cloud.apps.get(target)
    instances = [
        instance
        async for instance in cloud.instances.list(app_found.id)
        if process is None or instance.process == process
    ]
    usable = [i for i in instances if i.state in _ALIVE and i.goal is not InstanceGoal.STOP and not i.stale]
    if not usable:
        of_type = f" of type {process}" if process else ""
        raise Failed(
            f"No instance of {target}{of_type} runs now.",
            details=tuple(f"{i.process} {i.id}: {i.state.value} {i.reason}".rstrip() for i in instances[:10]),
            next_steps=(f"shellwego logs {target}",),
        )
    # A healthy one before others, `web` before other types, one that stays before one that drains.
    usable.sort(key=lambda i: (_ALIVE.index(i.state), i.goal is not InstanceGoal.RUN, i.process != WEB, i.id))
    return usable[0].id
