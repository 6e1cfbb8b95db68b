"""`shellwego deploy`: from a folder or an image to a URL."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shellwego.cli import deploy_options as options
from shellwego.cli.deploy_flags import Flags, flags_of
from shellwego.cli.deployments import under_way
from shellwego.cli.following import check_succeeded, follow, outcome
from shellwego.cli.groups import single
from shellwego.cli.here import Here, command
from shellwego.cli.output import counted, size
from shellwego.core.appfile import FILE_NAME, AppFile, overlaid, parse_appfile
from shellwego.core.apps import check_app_name
from shellwego.core.errors import InvalidField, ShellWeGoError

if TYPE_CHECKING:
    from shellwego.client import Cloud
    from shellwego.client.sources import Listing
    from shellwego.protocol.public import DeploymentCreate, RegistryLogin

app = single()


@command(app, "deploy")
async def deploy(
    here: Here,
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="DIR", help="The folder to build and run; this one if it is an app's.", show_default=False
        ),
    ] = None,
    image: options.Image = None,
    name: options.Name = None,
    wait: Annotated[
        bool | None,
        typer.Option(
            "--wait/--detach",
            "-w/-d",
            show_default=False,
            help="Wait for the end, or return at once. On a terminal it waits unless told not to.",
        ),
    ] = None,
    file: options.File = None,
    process: options.Process = None,
    scale: options.Scale = None,
    env: options.Env = None,
    port: options.Port = None,
    runtime: options.Runtime = None,
    grace: options.Grace = None,
    health_path: options.HealthPath = None,
    health_tcp: options.HealthTcp = False,
    health_command: options.HealthCommand = None,
    health_none: options.HealthNone = False,
    health_interval: options.HealthInterval = None,
    health_timeout: options.HealthTimeout = None,
    health_start_period: options.HealthStartPeriod = None,
    health_retries: options.HealthRetries = None,
    memory: options.Memory = None,
    cpu: options.Cpu = None,
    pids: options.Pids = None,
    disk: options.Disk = None,
    dockerfile: options.Dockerfile = None,
    target: options.Target = None,
    build_arg: options.BuildArg = None,
    build_secret: options.BuildSecret = None,
    no_cache: options.NoCache = False,
    trusted: options.Trusted = False,
    registry_user: options.RegistryUser = None,
    note: options.Note = "",
) -> int | None:
    """
    Deploy a folder or an image.

    A folder is built by its Dockerfile or, without one, by what it is: Python, Node, a Procfile or a static site. What
    shellwego.toml beside it says, flags override. The old release serves until the new one is healthy, and goes on
    serving if it never is.

    \b
    Examples:
      shellwego deploy
      shellwego deploy . --name shop
      shellwego deploy --image nginx:1.27 --name web --port 80
      shellwego deploy ./api --health-path /health --memory 512m --wait
    """
    if folder is not None and image is not None:
        raise InvalidField("deploy", "a folder or an image (`--image REF`), one of them.")
    if image is None and folder is None:
        folder = _this_folder(here)
    said = _read_file(file or (folder / FILE_NAME if folder is not None else None), must_exist=file is not None)
    flags = Flags(
        name, port, runtime, grace, process, scale, env,
        health_path, health_tcp, health_command, health_none,
        health_interval, health_timeout, health_start_period, health_retries,
        memory, cpu, pids, disk, dockerfile, target, build_arg, build_secret, no_cache, trusted,
    )  # fmt: skip
    wish = overlaid(said, flags_of(flags))
    target_app = _name_of(wish, folder, image)
    from shellwego.client.appfiles import deployment_of

    body = deployment_of(
        wish, image=image, registry_login=_registry_login(registry_user), note=note, environment=os.environ
    )
    listing = None
    if folder is not None:
        from shellwego.client.sources import list_source

        listing = await asyncio.to_thread(list_source, folder, dockerfile=wish.build.dockerfile if wish.build else None)
    waits = sys.stderr.isatty() if wait is None else wait
    async with here.cloud() as cloud:
        return await _deploy(here, cloud, target_app, body, listing, waits=waits)


def _this_folder(here: Here) -> Path:
    """Where we are, if it is an app's: who types `deploy` at home doesn't mean to send all that is there."""
    from shellwego.core.buildplan import KNOWN_BY

    if not any(Path(name).exists() for name in (FILE_NAME, *KNOWN_BY)):
        raise InvalidField(
            "deploy",
            "nothing in this folder says how to build it. Say what: another folder (`shellwego deploy ./shop`), this "
            "one all the same (`shellwego deploy .`), or an image (`--image REF`).",
        )
    here.output.say(f"Deploying {Path.cwd()}.")
    return Path()


async def _deploy(
    here: Here, cloud: Cloud, name: str, body: DeploymentCreate, listing: Listing | None, *, waits: bool
) -> int | None:
    key = uuid.uuid4().hex
    made = None
    if await cloud.apps.find(name) is None:
        made = await cloud.apps.create(name, idempotency_key=f"{key}-app")
        here.output.say(f"Created the app {name}.")
    try:
        if listing is not None:
            body = body.model_copy(update={"source": await _upload(here, cloud, name, listing, f"{key}-source")})
        deployment = await cloud.deployments.create(name, body, idempotency_key=key)
    except ShellWeGoError as error:
        if made is not None and not error.retryable:
            # It would be an app that nobody meant to have: what was asked for is refused as it stands.
            with contextlib.suppress(ShellWeGoError):
                if (await cloud.apps.get(made.id)).deployment is None:
                    await cloud.apps.delete(made.id)
                    here.output.say(f"Removed the app {name} again, since nothing was deployed to it.")
        raise
    if not waits:
        under_way(here, deployment, name)
        return None
    deployment = await follow(here, cloud, deployment, name)
    if not here.output.for_people:
        here.output.document(deployment.model_dump(mode="json"))
    check_succeeded(deployment, name)
    if here.output.for_people:
        took = ""
        if deployment.finished_at is not None:
            took = f" in {(deployment.finished_at - deployment.created_at).total_seconds():.0f} s"
        here.output.say(outcome(deployment, name, took=took), style="green")
        here.output.line((await cloud.apps.get(name)).url)
    return None


async def _upload(here: Here, cloud: Cloud, name: str, listing: Listing, key: str) -> str:
    for hint in listing.hints:
        here.output.say(f"Note: {hint}", style="yellow")
    by = f" by {listing.rules}" if listing.rules else ""
    what = f"{counted(listing.files, 'file')}{by}, {size(listing.size_bytes)}"
    console = here.output.talk
    if not console.is_terminal or not here.output.for_people:
        here.output.say(f"Sending {what}.")
        source = await cloud.sources.upload(name, listing, idempotency_key=key)
    else:
        # A moving line is for a terminal, and nobody else shall wait for its import.
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

        columns = (TextColumn("Sending {task.description}"), BarColumn(20), DownloadColumn(binary_units=True))
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task(counted(listing.files, "file"), total=listing.size_bytes)
            source = await cloud.sources.upload(
                name, listing, idempotency_key=key,
                on_progress=lambda packed: progress.update(task, completed=packed),
            )  # fmt: skip
        here.output.say(f"Sent {what}, {size(source.size_bytes)} packed.")
    return source.id


def _read_file(path: Path | None, *, must_exist: bool) -> AppFile:
    if path is None:
        return AppFile()
    try:
        text = path.read_text("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        if must_exist:
            raise InvalidField("file", f"{path} doesn't exist.") from None
        return AppFile()
    except UnicodeDecodeError as error:
        raise InvalidField("file", f"{path} is not UTF-8 text.") from error
    except OSError as error:
        raise InvalidField("file", f"{path} can't be read: {error.strerror}.") from error
    return parse_appfile(text, file_name=path.name)


def _name_of(wish: AppFile, folder: Path | None, image: str | None) -> str:
    if wish.name is not None:
        return wish.name
    if folder is None:
        raise InvalidField("name", f"which app shall run {image}? Add --name NAME.")
    guess = folder.resolve().name
    try:
        return check_app_name(guess)
    except InvalidField as error:
        raise InvalidField("name", f"the folder's name can't be the app's: {error.problem} Add --name NAME.") from error


def _registry_login(user: str | None) -> RegistryLogin | None:
    from shellwego.protocol.public import RegistryLogin

    if user is None:
        return None
    password = os.environ.get("SHELLWEGO_REGISTRY_PASSWORD")
    if not password:
        raise InvalidField("registry_user", "needs the password in the variable SHELLWEGO_REGISTRY_PASSWORD.")
    return RegistryLogin(username=user, password=password)
