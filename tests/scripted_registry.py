"""A registry that misbehaves as a test tells it to. Serves OCI distribution from memory on a port of 127.0.0.1.

Rules come first: each is a function that sees a request and answers it, or returns None to let it be served well.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.images import digest_of


@dataclass(frozen=True, slots=True)
class Request:
    path: str
    headers: Mapping[str, str]

    @property
    def is_manifest(self) -> bool:
        return "/manifests/" in self.path

    @property
    def is_blob(self) -> bool:
        return "/blobs/" in self.path


@dataclass(slots=True)
class Answer:
    """
    `body` is sent as it is; `stream` then goes on by hand. `length` is what is promised when that is something else
    than the body's (-1: nothing); a promise that is not kept ends the connection.
    """

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    length: int | None = None
    stream: Callable[[asyncio.StreamWriter], Awaitable[None]] | None = None


Rule = Callable[[Request], Answer | None]


class ScriptedRegistry:
    def __init__(self) -> None:
        self.rules: list[Rule] = []
        self.requests: list[Request] = []
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, tuple[str, bytes]] = {}
        self.address = ""
        self.scheme = "http"
        self._connections: set[asyncio.Task[None]] = set()

    def add(self, layout: Path, name: str) -> str:
        """Serve the layout's image as `repository:tag` and by digest. Returns its digest."""
        repository, _, tag = name.partition(":")
        entry = json.loads((layout / "index.json").read_text())["manifests"][0]
        for blob in (layout / "blobs" / "sha256").iterdir():
            self.blobs[f"sha256:{blob.name}"] = blob.read_bytes()
        content = self.blobs[entry["digest"]]
        self.add_manifest(f"{repository}:{tag}", content, entry["mediaType"])
        return str(entry["digest"])

    def add_manifest(self, name: str, content: bytes, media_type: str) -> str:
        repository, _, tag = name.partition(":")
        digest = digest_of(content)
        for which in (tag, digest):
            self.manifests[f"/v2/{repository}/manifests/{which}"] = (media_type, content)
        return digest

    def count(self, part: str) -> int:
        """How many requests had `part` in their path."""
        return sum(part in request.path for request in self.requests)

    @contextlib.asynccontextmanager
    async def serving(self, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[ScriptedRegistry]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)
        self.scheme = "https" if tls else "http"
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for connection in self._connections:
                connection.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)
            await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while request := await _read(reader):
                self.requests.append(request)
                answer = next((a for rule in self.rules if (a := rule(request)) is not None), None)
                if answer is None:
                    answer = self.serve_well(request)
                if not await _write(writer, answer):
                    return
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(task)
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()

    def serve_well(self, request: Request) -> Answer:
        if request.path in self.manifests:
            media_type, content = self.manifests[request.path]
            return Answer(body=content, headers={"Content-Type": media_type})
        content = self.blobs.get(request.path.rpartition("/")[2], b"") if request.is_blob else b""
        if not content:
            return Answer(404, b"{}")
        start = request.headers.get("range", "").removeprefix("bytes=").partition("-")[0]
        if start:
            told = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
            return Answer(206, content[int(start) :], told)
        return Answer(body=content)


async def _read(reader: asyncio.StreamReader) -> Request | None:
    lines: list[str] = []
    while line := (await reader.readline()).decode("latin-1").rstrip("\r\n"):
        lines.append(line)
    if not lines or len(lines[0].split()) < 2:
        return None
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    return Request(lines[0].split()[1], headers)


async def _write(writer: asyncio.StreamWriter, answer: Answer) -> bool:
    """Whether the connection can serve another request."""
    length = len(answer.body) if answer.length is None else answer.length
    headers = ({} if length < 0 else {"Content-Length": str(length)}) | answer.headers
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    writer.write(f"HTTP/1.1 {answer.status} X\r\n{head}\r\n".encode("latin-1") + answer.body)
    await writer.drain()
    if answer.stream is not None:
        await answer.stream(writer)
        return False
    return length == len(answer.body)
