"""What happens when an instance takes all that there is of something?"""

# System calls are meant here, by their names.
# ruff: noqa: PTH103, PTH108, PTH123

from __future__ import annotations

import contextlib
import os
import resource
import socket
import subprocess
import time
from collections.abc import Callable
from typing import Any

from trying import tried, why


def forks(given: dict[str, Any]) -> dict[str, str]:
    """
    A fork bomb for so many seconds: every child forks too, each as another user, since some count by user. How many
    of this process's own forks were refused.
    """
    until = time.monotonic() + given["seconds"]
    refused = 0
    while time.monotonic() < until:
        try:
            if os.fork() == 0:
                _bomb(until)
        except OSError:
            refused += 1
        time.sleep(0.01)
    return {"refused": str(refused)}


def _bomb(until: float) -> None:
    with contextlib.suppress(OSError):
        os.setuid(10_000 + os.getpid())
    while time.monotonic() < until:
        with contextlib.suppress(OSError):
            os.fork()
        time.sleep(0.01)
    os._exit(0)


def memory(given: dict[str, Any]) -> dict[str, str]:
    """All memory there is. Doesn't come back."""
    held = []
    while True:
        held.append(os.urandom(1 << 20) * 8)


def disk(given: dict[str, Any]) -> dict[str, str]:
    """Files until none can be written, and how many bytes went in before it said so. They stay until told."""
    written, word = 0, "no end"
    os.makedirs("/attacker/fill", exist_ok=True)
    block = os.urandom(1 << 20)
    try:
        for number in range(100):
            with open(f"/attacker/fill/{number}", "wb", buffering=0) as file:
                while written < given["bytes"] and file.tell() < 16 << 20:
                    written += file.write(block)
                os.fsync(file.fileno())
            if written >= given["bytes"]:
                break
    except OSError as error:
        word = why(error)
    return {"written": str(written), "end": word}


def empty_files(given: dict[str, Any]) -> dict[str, str]:
    """Names cost too: empty files until none can be made, or so many are."""
    made, word = 0, "no end"
    os.makedirs("/attacker/names", exist_ok=True)
    try:
        for number in range(given["files"]):
            os.close(os.open(f"/attacker/names/{number}", os.O_CREAT | os.O_WRONLY))
            made = number + 1
    except OSError as error:
        word = why(error)
    return {"made": str(made), "end": word}


def clear(given: dict[str, Any]) -> dict[str, str]:
    """Take both away again, and see that there is room."""
    subprocess.run(["rm", "-rf", "/attacker/fill", "/attacker/names"], check=True)

    def use() -> None:
        with open("/attacker/room", "wb") as file:
            file.write(bytes(1 << 20))
        os.unlink("/attacker/room")

    return {"write": tried(use)}


def files(given: dict[str, Any]) -> dict[str, str]:
    """Descriptors: as many as a process gets, of four kinds, in eight processes at a time; held so many seconds."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    said, say = os.pipe()
    until = time.monotonic() + given["seconds"]
    kinds: tuple[Callable[[], object], ...] = (
        lambda: os.open("/attacker/app.py", os.O_RDONLY),
        lambda: os.eventfd(0),
        os.pipe,
        lambda: held.append(socket.socket()),
    )
    held: list[socket.socket] = []
    for make in kinds * 2:
        if os.fork() == 0:
            count = 0
            try:
                while True:
                    make()
                    count += 1
            except OSError as error:
                os.write(say, f"{count} {why(error)}\n".encode())
            time.sleep(max(0.0, until - time.monotonic()))
            os._exit(0)
    os.close(say)
    with os.fdopen(said) as lines:
        words = lines.read().split("\n")
    return {"limit": str(hard), "most": str(max(int(word.split()[0]) for word in words if word)), "said": str(words)}
