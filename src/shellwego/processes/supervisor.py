"""Who starts the processes of a one-node cloud again when one ends?

A small supervisor: it starts each child, waits, and starts it again with backoff. It knows nothing of what they do. In
production systemd takes its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import structlog

from shellwego.kit.backoff import backoff_seconds

log = structlog.get_logger()

SUPERVISOR_VARIABLE = "SHELLWEGO_SUPERVISOR"
_LASTED_SECONDS = 30.0
"""A child that ran this long before it ended starts again at once."""
_OUTPUT_BYTES = 5 << 20


@dataclass(frozen=True, slots=True)
class Child:
    name: str
    command: tuple[str, ...]
    stop_seconds: float = 15.0


class Supervisor:
    """Runs children until `stop`. What a child prints (a crash, mostly) goes to `output`/NAME.out."""

    def __init__(
        self,
        output: Path,
        *,
        on_end: Callable[[str, int], None] = lambda _name, _status: None,
        longest_wait_seconds: float = 10.0,
    ) -> None:
        self._output = output
        self._on_end = on_end
        self._longest_wait_seconds = longest_wait_seconds
        self._running: dict[str, asyncio.subprocess.Process] = {}
        self._stopping: set[str] = set()

    def pid(self, name: str) -> int | None:
        process = self._running.get(name)
        return process.pid if process else None

    async def keep_running(self, child: Child) -> None:
        """Start the child, again and again, until it is stopped. Cancelling kills it."""
        attempt = 0
        loop = asyncio.get_running_loop()
        while child.name not in self._stopping:
            began = loop.time()
            process = await self._start(child)
            self._running[child.name] = process
            try:
                status = await process.wait()
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
                del self._running[child.name]
            if child.name in self._stopping:
                return
            attempt = 1 if loop.time() - began > _LASTED_SECONDS else attempt + 1
            wait = 0.0 if attempt == 1 else backoff_seconds(attempt - 1, limit=self._longest_wait_seconds)
            log.warning("child.ended", child=child.name, status=status, next_start_seconds=wait)
            self._on_end(child.name, status)
            await asyncio.sleep(wait)

    async def stop(self, child: Child) -> None:
        """SIGTERM, then SIGKILL after its time; the child isn't started again. Safe to repeat."""
        self._stopping.add(child.name)
        process = self._running.get(child.name)
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(child.stop_seconds):
                await process.wait()
        except TimeoutError:
            log.warning("child.killed", child=child.name, after_seconds=child.stop_seconds)
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _start(self, child: Child) -> asyncio.subprocess.Process:
        with self._output_of(child) as output:
            return await asyncio.create_subprocess_exec(
                *child.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, SUPERVISOR_VARIABLE: str(os.getpid())},
                # Ctrl-C in the terminal reaches the whole process group; only the supervisor should act on it.
                start_new_session=True,
            )

    def _output_of(self, child: Child) -> BinaryIO:
        path = self._output / f"{child.name}.out"
        try:
            too_long = path.exists() and path.stat().st_size > _OUTPUT_BYTES
            return path.open("wb" if too_long else "ab")
        except OSError as error:  # Nothing can be written there now; the child is needed all the same.
            log.warning("child.output_lost", child=child.name, error=repr(error))
            return Path(os.devnull).open("wb")
