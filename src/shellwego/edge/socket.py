"""How do we talk to a running HAProxy?

Through its runtime socket, in prompt mode: many commands on one connection, each answer ended by a prompt, so that
every answer belongs to its command. Parsing of what HAProxy shows lives here too, pure, with HAProxy's own column
names. Nothing here decides anything.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from shellwego.core.errors import Unavailable
from shellwego.edge.routes import Mode, Observed, SeenServer, Target

ALIVE_SECONDS = 5.0
"""A HAProxy that is silent for longer hangs: it answers within milliseconds, whatever its load."""

_PROMPT = b"\n> "
_LIMIT_BYTES = 64 << 20

# srv_admin_state and srv_op_state of `show servers state` (HAProxy's management guide, section 9.3).
_ADMIN_MAINT = 0x01 | 0x02 | 0x20
_ADMIN_DRAIN = 0x08 | 0x10


class ProxyUnavailable(Unavailable):
    """HAProxy's runtime socket doesn't answer."""

    def __init__(self, problem: str) -> None:
        super().__init__("HAProxy", problem)


@dataclass(frozen=True, slots=True)
class ProxyInfo:
    """What a HAProxy says of itself."""

    pid: int
    stopping: bool
    shape: str
    slots: int


class RuntimeSocket:
    """HAProxy's runtime socket at a path. Holds no connection: each call makes its own."""

    def __init__(self, path: Path, *, timeout_seconds: float = 10.0) -> None:
        self._path, self._timeout_seconds = path, timeout_seconds

    async def ask(self, commands: Sequence[str]) -> list[str]:
        """
        What HAProxy answers to each command, stripped. An empty answer is its usual way to say that all is well.

        Raises ProxyUnavailable.
        """
        if any("\n" in command for command in commands):
            raise ValueError("a command is one line")
        if not commands:
            return []
        script = "".join(f"{line}\n" for line in ("prompt", *commands, "quit")).encode()
        answer = await self._exchange(script)
        parts = answer.split(_PROMPT)
        # The first part answers `prompt` itself; what follows the last prompt is empty.
        answers = [part.decode(errors="replace").strip() for part in parts[1:]]
        if len(answers) < len(commands):
            raise ProxyUnavailable("it ended the conversation half way")
        return answers[: len(commands)]

    async def send_payload(self, command: str, payload: str) -> str:
        """The answer to a command with a payload, which ends at the first empty line. Raises ProxyUnavailable."""
        lines = "\n".join(line for line in payload.splitlines() if line.strip())
        answer = await self._exchange(f"{command} <<\n{lines}\n\n".encode())
        return answer.decode(errors="replace").strip()

    async def find_info(self) -> ProxyInfo | None:
        """What the HAProxy behind the socket is, None if nobody answers, or not within ALIVE_SECONDS."""
        try:
            async with asyncio.timeout(ALIVE_SECONDS):
                (text,) = await self.ask(["show info"])
        except (ProxyUnavailable, TimeoutError):
            return None
        return parse_info(text)

    async def _exchange(self, script: bytes) -> bytes:
        try:
            async with asyncio.timeout(self._timeout_seconds):
                reader, writer = await asyncio.open_unix_connection(self._path, limit=1 << 20)
                try:
                    # HAProxy stops reading while its answers aren't read, so writing must not come first alone.
                    writer.write(script)
                    chunks, size = [], 0
                    while chunk := await reader.read(1 << 18):
                        chunks.append(chunk)
                        size += len(chunk)
                        if size > _LIMIT_BYTES:
                            raise ProxyUnavailable("its answer has no end")
                    return b"".join(chunks)
                finally:
                    writer.close()
                    with contextlib.suppress(OSError):
                        await writer.wait_closed()
        except (OSError, TimeoutError) as error:
            raise ProxyUnavailable(str(error) or "no answer in time") from error


# --- what HAProxy shows -------------------------------------------------------------------------------------------


def parse_info(text: str) -> ProxyInfo:
    fields = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
    described = dict(word.split("=", 1) for word in fields.get("description", "").split() if "=" in word)
    return ProxyInfo(
        pid=int(fields.get("Pid", "0")),
        stopping=fields.get("Stopping", "0") == "1",
        shape=described.get("shape", ""),
        slots=int(described.get("slots", "0")),
    )


def parse_map(text: str) -> dict[str, list[str]]:
    """Values by key, of `show map`. A key may be there more than once: the first counts, and that's to be mended."""
    entries: dict[str, list[str]] = {}
    for line in text.splitlines():
        parts = line.split(" ", 2)
        if len(parts) == 3:
            entries.setdefault(parts[1], []).append(parts[2])
    return entries


def parse_servers(state: str, stat: str, *, prefix: str) -> dict[str, tuple[SeenServer, ...]]:
    """Servers by backend, of `show servers state` and `show stat -1 4 -1`, for backends that start with `prefix`."""
    sessions: dict[tuple[str, str], int] = {}
    for line in stat.splitlines():
        columns = line.split(",", 5)
        if len(columns) > 5 and not line.startswith("#") and columns[0].startswith(prefix):
            # Requests that wait for a connection count as well.
            sessions[columns[0], columns[1]] = int(columns[4] or 0) + int(columns[2] or 0)
    servers: dict[str, list[SeenServer]] = {}
    for line in state.splitlines():
        columns = line.split(" ")
        if len(columns) < 19 or not columns[1].startswith(prefix):
            continue
        backend, name, admin = columns[1], columns[3], int(columns[6])
        mode = Mode.MAINT if admin & _ADMIN_MAINT else Mode.DRAIN if admin & _ADMIN_DRAIN else Mode.READY
        servers.setdefault(backend, []).append(
            SeenServer(name, mode, sessions.get((backend, name), 0), int(columns[9]))
        )
    return {backend: tuple(there) for backend, there in servers.items()}


# --- what we say --------------------------------------------------------------------------------------------------


def show_slot(slot: str) -> tuple[str, str]:
    return (f"show servers state {slot}", f"show stat {slot} 4 -1")


def add_server(slot: str, target: Target, options: str) -> tuple[str, str]:
    """A new server takes no request until it is told to; both commands go together."""
    address = f"[{target.address}]" if ":" in target.address else target.address
    return (
        f"add server {slot}/{target.server} {address}:{target.port} {options}",
        set_mode(slot, target.server, Mode.READY),
    )


def set_mode(slot: str, server: str, mode: Mode) -> str:
    return f"set server {slot}/{server} state {mode.value}"


def delete_server(slot: str, server: str) -> str:
    return f"del server {slot}/{server}"


def shutdown_sessions(slot: str, server: str) -> str:
    return f"shutdown sessions server {slot}/{server}"


def put_in_map(path: Path, key: str, value: str, *, exists: bool) -> str:
    # `add map` of a key that is there makes a second entry, silently.
    return f"{'set' if exists else 'add'} map {path} {key} {value}"


def take_from_map(path: Path, key: str) -> str:
    return f"del map {path} {key}"


def observe_all(paths_of_maps: Iterable[Path]) -> list[str]:
    return [*(f"show map {path}" for path in paths_of_maps), "show servers state", "show stat -1 4 -1"]


def observed_from(
    hosts: dict[str, list[str]], owners: dict[str, list[str]], servers: dict[str, tuple[SeenServer, ...]], slots: int
) -> Observed:
    """One picture. A host that is in the map twice with two values counts as one with none, so that it is set anew."""
    return Observed(
        slots=slots,
        hosts={host: values[0] if len(set(values)) == 1 else "" for host, values in hosts.items()},
        owners={slot: values[0] for slot, values in owners.items()},
        servers=servers,
    )
