"""Who stays with a sandbox when the agent doesn't?

conmon: one small C process for each sandbox. It holds the app's output and writes the log, and keeps the exit status
in a file. It belongs to nobody: its own session and its own control groups, so that neither a signal to the agent nor
a service manager that ends the agent's group takes the apps' monitors along.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from pathlib import Path

from shellwego.core.errors import EngineMissing, StartFailed
from shellwego.core.ids import InstanceId
from shellwego.core.instances import ExitReason, ExitStatus
from shellwego.drivers.runtime.cgroups import CGroups
from shellwego.drivers.runtime.processes import wait_readable
from shellwego.drivers.runtime.smallfiles import read_small
from shellwego.kit.commands import Command
from shellwego.kit.faults import fault_point, reach

SPAWNED = fault_point("runtime.start.monitor_spawned")
RELEASED = fault_point("runtime.start.monitor_released")

GROUP = "monitors"
"""The control group of all monitors of a cloud, beside those of its instances."""

_CPU_MILLIS = 30
"""
What a monitor may use. Copying a flood of output, it would take a core of the node's and all of its disk, which no
limit of the app's counts; with this, the flood waits for its monitor. It is some 8 MB of log a second.
"""

_REOPEN_LOG = b"2 0 0\n"
_MOST_SIGNALS = 64


async def create_under_monitor(command: Command, *, groups: CGroups, errors: Path, timeout_seconds: float) -> None:
    """
    Run conmon in the folder of `errors`; it creates the sandbox and stays. Raises StartFailed with the runtime's words,
    EngineMissing.

    The monitor waits at its start pipe until it is in its groups, so no child of it is ever born elsewhere, and says
    at its sync pipe how the creation went.
    """
    start_read, start_write = os.pipe()
    sync_read, sync_write = os.pipe()
    os.set_blocking(sync_read, False)
    process: asyncio.subprocess.Process | None = None
    answered = False
    ours = {start_read, start_write, sync_read, sync_write}
    try:
        with errors.open("wb") as sink:
            try:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=sink,
                    pass_fds=(start_read, sync_write),
                    cwd=errors.parent,  # Where it leaves a file named `oom` when the sandbox runs out of memory.
                    env={
                        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                        "_OCI_STARTPIPE": str(start_read),
                        "_OCI_SYNCPIPE": str(sync_write),
                    },
                    start_new_session=True,
                )
            except FileNotFoundError as error:
                raise EngineMissing("conmon", f"there is no program {command[0]}.") from error
        for descriptor in (start_read, sync_write):
            os.close(descriptor)
            ours.discard(descriptor)
        await reach(SPAWNED)
        # An agent that isn't allowed to make groups still runs apps; it only ends together with them.
        with contextlib.suppress(OSError):
            groups.join(GROUP, process.pid)
        with contextlib.suppress(BrokenPipeError):
            os.write(start_write, b"go")
        os.close(start_write)
        ours.discard(start_write)
        await reach(RELEASED)
        try:
            async with asyncio.timeout(timeout_seconds):
                answer = await _read_all(sync_read)
                await process.wait()  # It has forked: this was the parent.
                answered = True
        except TimeoutError:
            raise StartFailed(f"The sandbox was not ready within {timeout_seconds:g} s.") from None
    finally:
        if process is not None and not answered:
            # Before the pipes close: their end would tell it to go on. What it forked already, the caller finds.
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        for descriptor in ours:
            os.close(descriptor)
    said = _parse(answer)
    if _number(said.get("data")) <= 0:
        words = str(said.get("message") or "") or errors.read_text(errors="replace")
        raise StartFailed(words.strip() or "The sandbox could not be created, and the runtime did not say why.")


def limit_monitor(id: InstanceId, pid: int, groups: CGroups) -> None:
    """Bound what the monitor may use, now that it has created the sandbox: the runtime's work was a part of its own."""
    with contextlib.suppress(OSError):
        groups.limit_cpu(limited_group(id), pid, _CPU_MILLIS)


def limited_group(id: InstanceId) -> str:
    """The control group of one sandbox's monitor, once it only copies."""
    return f"copying/monitor-{id}"


def reopen_log(bundle: Path) -> bool:
    """Tell the monitor to begin a new log file. False if there is no monitor any more."""
    try:
        descriptor = os.open(bundle / "ctl", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False  # No such fifo, or ENXIO: nobody reads it.
    try:
        os.write(descriptor, _REOPEN_LOG)
    finally:
        os.close(descriptor)
    return True


def read_exit(path: str) -> ExitStatus | None:
    """
    What the monitor saw, or None while it hasn't. It writes 128+n for signal n, as a shell does, so a program that
    exits with such a number by itself looks the same.
    """
    text = read_small(path)
    if not text:
        return None
    status = int(text)
    number = status - 128
    if 0 < number <= _MOST_SIGNALS:
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        return ExitStatus(ExitReason.SIGNALLED, number, name)
    return ExitStatus(ExitReason.EXITED, status)


async def _read_all(descriptor: int) -> bytes:
    """Up to the first whole answer: the pipe itself stays open in what conmon leaves behind."""
    text = b""
    while not text.endswith(b"\n"):
        await wait_readable(descriptor)
        chunk = os.read(descriptor, 65536)
        if not chunk:
            break
        text += chunk
    return text


def _number(value: object) -> int:
    return value if isinstance(value, int) else -1


def _parse(answer: bytes) -> dict[str, object]:
    try:
        said = json.loads(answer)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}
