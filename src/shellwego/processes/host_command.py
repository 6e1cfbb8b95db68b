"""What does every command share that works on the cloud of its own machine?

It needs root, takes a data directory, has the cloud to itself, and says what an operator can mend in one sentence.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from shellwego.core.errors import Conflict, ShellWeGoError
from shellwego.kit.disks import FULL
from shellwego.kit.files import take_lock
from shellwego.processes.cloud import Cloud
from shellwego.processes.commands import DEFAULT_DATA as DEFAULT_DATA

DISK_ERRORS = FULL | {errno.EROFS, errno.EIO}
"""What is the disk's trouble and no bug of ours."""

DataDir = Annotated[
    Path, typer.Option("--data-dir", envvar="SHELLWEGO_DATA_DIR", help="Where this cloud keeps everything.")
]


def need_root(why: str) -> None:
    """Leave with a word on why when we aren't root."""
    if os.geteuid() != 0:
        typer.echo(f"{why}, which takes root. Try it with sudo.", err=True)
        raise typer.Exit(1)


@contextlib.contextmanager
def only_one(cloud: Cloud) -> Iterator[None]:
    """Hold the cloud's lock. Raises Conflict while another `up` runs it."""
    try:
        descriptor = take_lock(cloud.data / "up.lock")
    except BlockingIOError:
        raise Conflict(f"The cloud in {cloud.data} runs already. Stop it first, or use another --data-dir.") from None
    try:
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def told(command: str = "shellwego", *, of_disk: str = "") -> Iterator[None]:
    """End with status 1 and a sentence, instead of a traceback, on what is no bug. `of_disk` follows a disk's error."""
    try:
        yield
    except ShellWeGoError as error:
        typer.echo(f"{command}: {error}", err=True)
        raise typer.Exit(1) from None
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        typer.echo(f"{command}: {error}{of_disk}", err=True)
        raise typer.Exit(1) from None
