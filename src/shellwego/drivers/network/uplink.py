"""How do instances reach the internet although the host forwards nothing?

slirp4netns holds a TAP interface inside the data plane and opens ordinary sockets outside, as an unprivileged program
would. It belongs to nobody: it outlives the agent, and whoever comes next finds it by its command line, which names
the data plane. So there is no file that could be wrong about it.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import subprocess
import time
from pathlib import Path

from shellwego.core.errors import EngineMissing, Unavailable
from shellwego.drivers.network.names import TAP
from shellwego.kit.commands import Command

_END_SECONDS = 3.0
_READY_SECONDS = 15.0
_LARGEST_MTU = 65520
_LOG = "slirp4netns.log"


def slirp_command(slirp4netns: Path, namespace: Path, *, ready_descriptor: int) -> Command:
    """
    In a session of its own and forked twice, so that it is nobody's child. In a slave mount namespace, because
    `--enable-sandbox` unmounts all it finds, and /run/netns is shared: without this it unmounted the host's own names.
    """
    return (
        "setsid",
        "--fork",
        "unshare",
        "--mount",
        "--propagation",
        "slave",
        "--",
        str(slirp4netns),
        "--configure",
        f"--mtu={_LARGEST_MTU}",
        "--disable-host-loopback",
        "--enable-sandbox",
        "--enable-seccomp",
        f"--ready-fd={ready_descriptor}",
        "--netns-type=path",
        str(namespace),
        TAP,
    )


def start(slirp4netns: Path, namespace: Path, runtime_directory: Path) -> None:
    """Start it and wait until its interface is configured. Blocks: for a worker thread."""
    log = runtime_directory / _LOG
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        with log.open("wb") as output:
            try:
                subprocess.run(
                    slirp_command(slirp4netns, namespace, ready_descriptor=writer),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=(writer,),
                    cwd="/",
                    timeout=_READY_SECONDS,
                    check=True,
                )
            except FileNotFoundError as error:
                raise EngineMissing(str(error.filename), "isn't installed.") from error
            except (subprocess.SubprocessError, OSError) as error:
                raise Unavailable("slirp4netns", str(error)) from error
        os.close(writer)
        writer = -1
        # The pipe's end comes at once when slirp4netns dies, so a failure is not waited for.
        readable, _, _ = select.select([reader], [], [], _READY_SECONDS)
        if not readable or not os.read(reader, 1):
            said = log.read_text(errors="replace").strip()[-500:]
            raise Unavailable("slirp4netns", said or "it didn't become ready")
    finally:
        os.close(reader)
        if writer >= 0:
            os.close(writer)
    for pid in find_processes(namespace):
        _raise_descriptor_limit(pid)


def find_processes(namespace: Path) -> list[int]:
    """Every slirp4netns, also one still starting, that serves this data plane."""
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and _serves(entry, namespace)]


def end(namespace: Path) -> None:
    """None of them is left. Blocks: for a worker thread."""
    for pid in find_processes(namespace):
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            # The number could have been given to another process meanwhile; what the descriptor names can't change.
            if _serves(Path("/proc", str(pid)), namespace):
                _end_process(descriptor)
        finally:
            os.close(descriptor)


def remove_log(runtime_directory: Path) -> None:
    (runtime_directory / _LOG).unlink(missing_ok=True)


def _serves(process: Path, namespace: Path) -> bool:
    try:
        arguments = (process / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    program = b"--netns-type=path" in arguments and bytes(namespace) in arguments
    return program and any(Path(os.fsdecode(argument)).name == "slirp4netns" for argument in arguments)


def _end_process(descriptor: int) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            signal.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + _END_SECONDS
        while (left := deadline - time.monotonic()) > 0:
            if poll.poll(left * 1000):
                return


def _raise_descriptor_limit(pid: int) -> None:
    """Each connection of every instance is a descriptor of this one process; the usual soft limit is 1,024."""
    try:
        _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))
    except OSError:
        return  # It ended, or runs in a place where limits are another's: it serves with what it has.
