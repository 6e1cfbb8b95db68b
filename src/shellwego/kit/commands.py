"""How do we run another program and learn what it said?

A command is a tuple of arguments, built by a pure function and tested as such; this module only runs it.
There is never a shell in between. A failure carries the command and its last words, because an operator
who reads "exit status 1" can do nothing with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

Command = tuple[str, ...]

_LAST_WORDS = 4000
"""Characters of output an error keeps: enough for a reason, too little to flood a log."""


@dataclass(frozen=True, slots=True)
class Output:
    """What a finished command printed, decoded as UTF-8 with bad bytes replaced."""

    stdout: str
    stderr: str
    returncode: int


class CommandFailed(Exception):
    """A command ended with a non-zero status, by a signal (negative status, as in subprocess), or late."""

    def __init__(self, command: Command, returncode: int | None, stderr: str) -> None:
        self.command = command
        self.returncode = returncode
        self.stderr = stderr.strip()[-_LAST_WORDS:]
        how = "did not end in time" if returncode is None else f"ended with status {returncode}"
        super().__init__(f"{' '.join(command[:6])} {how}: {self.stderr or '(it said nothing)'}")


async def run_command(
    command: Command,
    *,
    timeout_seconds: float = 60.0,
    stdin: bytes | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    check: bool = True,
) -> Output:
    """
    Run `command` to its end and return what it printed.

    `env` replaces the environment, it does not add to it. Past `timeout_seconds`, or when the caller is
    cancelled, the command's whole process group is killed.

    Raises CommandFailed for a non-zero status (unless `check` is false), for a timeout, and, with status
    127, for a program that isn't there.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=None if env is None else dict(env),
            cwd=cwd,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise CommandFailed(command, 127, f"{command[0]}: {error.strerror}") from error
    try:
        async with asyncio.timeout(timeout_seconds):
            out, err = await process.communicate(stdin)
    except TimeoutError as error:
        raise CommandFailed(command, None, f"killed after {timeout_seconds:g} s") from error
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            await process.wait()
    output = Output(out.decode(errors="replace"), err.decode(errors="replace"), process.returncode or 0)
    if check and output.returncode != 0:
        raise CommandFailed(command, output.returncode, output.stderr or output.stdout)
    return output
