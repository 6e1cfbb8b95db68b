"""What does a command know of where it runs: which cloud, which credential, which output?

`@command` turns an async function into a command: it gives it a Here, adds the options that every command takes, and
turns errors and Ctrl-C into words and an exit status. The client is imported when the first request is made, so that
help and usage errors come at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import os
import sys
import typing
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shellwego.cli.errors import NoCloud, explain
from shellwego.cli.exits import Exit, exit_of
from shellwego.core.errors import InvalidField, ShellWeGoError

if TYPE_CHECKING:
    import httpx

    from shellwego.cli.output import Output
    from shellwego.client import Cloud
    from shellwego.client.credentials import Credential

OutputOption = Annotated[
    str | None,
    typer.Option("--output", "-o", metavar="table|json|yaml", help="How results are printed [env: SHELLWEGO_OUTPUT]."),
]
UrlOption = Annotated[str | None, typer.Option("--url", metavar="URL", help="The cloud's API [env: SHELLWEGO_URL].")]
TokenOption = Annotated[
    str | None, typer.Option("--token", metavar="TOKEN", help="An API token [env: SHELLWEGO_TOKEN].")
]
CaOption = Annotated[
    Path | None, typer.Option("--ca", metavar="FILE", help="PEM authorities to trust as well [env: SHELLWEGO_CA].")
]
_COMMON: dict[str, Any] = {
    "output_": Annotated[
        str | None, typer.Option("--output", "-o", metavar="table|json|yaml", help="How results are printed.")
    ],
    "json_": Annotated[bool, typer.Option("--json", hidden=True)],  # What hands from other platforms type.
    # Listed once, in `shellwego --help`, and understood everywhere.
    "url_": Annotated[str | None, typer.Option("--url", hidden=True)],
    "token_": Annotated[str | None, typer.Option("--token", hidden=True)],
    "ca_": Annotated[Path | None, typer.Option("--ca", hidden=True)],
}


@dataclass(frozen=True, slots=True)
class Settings:
    """What was asked for by options, on the root command or on the command itself."""

    output: str | None = None
    url: str | None = None
    token: str | None = None
    ca: Path | None = None

    def over(self, under: Settings) -> Settings:
        return Settings(
            self.output or under.output, self.url or under.url, self.token or under.token, self.ca or under.ca
        )

    def with_environment(self) -> Settings:
        ca = os.environ.get("SHELLWEGO_CA")
        environment = Settings(
            os.environ.get("SHELLWEGO_OUTPUT"),
            os.environ.get("SHELLWEGO_URL"),
            os.environ.get("SHELLWEGO_TOKEN"),
            Path(ca) if ca else None,
        )
        return self.over(environment)


class Here:
    """One run of one command."""

    local_hint: Callable[[], str] = staticmethod(lambda: "")
    """Says how to reach a cloud that lives on this very machine; set by who knows such things."""

    http: httpx.AsyncBaseTransport | None = None
    """Takes the place of the network in tests, which run a command and a cloud in one process."""

    def __init__(self, settings: Settings, output: Output) -> None:
        self.settings = settings
        self.output = output
        self.if_interrupted = ""
        """What a person should know who presses Ctrl-C now."""

    @contextlib.asynccontextmanager
    async def cloud(self) -> AsyncIterator[Cloud]:
        from shellwego.client import connect

        url, credential, ca = self.where()
        async with connect(url, credential, ca=ca, on_wait=self._tell_waiting, http=self.http) as cloud:
            yield cloud

    def where(self) -> tuple[str, Credential, Path | None]:
        """URL, credential and authorities: of the options, the environment, or the last login, in this order."""
        from shellwego.client.credentials import LoginStore, SessionCredential, TokenCredential
        from shellwego.client.transport import checked_url

        store = LoginStore()
        login = store.current() if self.settings.url is None else store.find(checked_url(self.settings.url))
        url = self.settings.url or (login.url if login else None)
        if url is None:
            raise NoCloud(type(self).local_hint())
        ca = self.settings.ca or (Path(login.ca) if login and login.ca else None)
        if self.settings.token:
            return url, TokenCredential(self.settings.token.strip()), ca
        return url, SessionCredential(store, login.url) if login else TokenCredential(), ca

    def _tell_waiting(self, why: str) -> None:
        self.output.say(f"{why.rstrip('.')}. Waiting for it ...", style="yellow")


Function = Callable[..., Coroutine[Any, Any, int | None]]


def command(app: typer.Typer, name: str | None = None, **settings: Any) -> Callable[[Function], Function]:
    """
    Make an async function, whose first parameter is a Here, a command of the app.

    What it returns is the exit status; None is success.
    """

    def decorate(function: Function) -> Function:
        hints = typing.get_type_hints(function, include_extras=True)
        own = list(inspect.signature(function).parameters.values())[1:]

        @functools.wraps(function)
        def run(context: typer.Context, **values: Any) -> None:
            if values.pop("json_"):
                values["output_"] = "json"
            said = Settings(*(values.pop(option) for option in _COMMON if option != "json_"))
            under = context.obj if isinstance(context.obj, Settings) else Settings()
            raise typer.Exit(_run(function, said.over(under).with_environment(), values))

        parameters = [inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)]
        parameters += [
            parameter.replace(annotation=hints[parameter.name], kind=inspect.Parameter.KEYWORD_ONLY)
            for parameter in own
        ]
        parameters += [
            inspect.Parameter(
                option,
                inspect.Parameter.KEYWORD_ONLY,
                annotation=annotation,
                default=False if option == "json_" else None,
            )
            for option, annotation in _COMMON.items()
        ]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        del run.__wrapped__  # or `inspect` would look through to the function's own parameters
        app.command(name, **settings)(run)
        return function

    return decorate


def _run(function: Function, settings: Settings, values: dict[str, Any]) -> int:
    from shellwego.cli.output import Format, Output

    try:
        form = Format((settings.output or "table").lower())
    except ValueError:
        raise typer.BadParameter(
            f"{settings.output!r} is not one of table, json, yaml.", param_hint="--output"
        ) from None
    here = Here(replace(settings, output=str(form)), Output(form))
    try:
        code = asyncio.run(function(here, **values)) or Exit.OK
        sys.stdout.flush()
    except ShellWeGoError as error:
        explain(error, here.output)
        return exit_of(error)
    except ValueError as error:
        refused = _refused_value(error)
        if refused is None:
            raise
        explain(refused, here.output)
        return exit_of(refused)
    except KeyboardInterrupt:
        here.output.say("")
        if here.if_interrupted:
            here.output.say(here.if_interrupted)
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # Who read our output has left (`| head`). Python would complain once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.FAILED
    return int(code)


def _refused_value(error: ValueError) -> InvalidField | None:
    """What the public API's models would refuse, told before it is sent. None for any other ValueError, a bug."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return None
    first = error.errors(include_url=False)[0]
    field = ".".join(map(str, first["loc"])) or error.title
    # Names are arguments of the commands that make something, as their help writes them.
    return InvalidField("NAME" if field == "name" else field, f"{first['msg']}.")
