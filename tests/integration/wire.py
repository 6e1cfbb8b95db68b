"""The API on a real socket, served by granian as in production."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path
from typing import Self

import httpx
from fastapi import FastAPI

from shellwego.control.api import serve


class Wire:
    """`async with Wire(api) as wire:` serves it; `wire.client` talks to it."""

    def __init__(self, api: FastAPI, *, uds: Path | None = None) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port: int = probe.getsockname()[1]
        self._api, self._uds = api, uds
        self.url = f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self.serving = asyncio.ensure_future(serve(self._api, host="127.0.0.1", port=self.port, uds=self._uds))
        self.client = httpx.AsyncClient(base_url=self.url, timeout=30)
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(httpx.TransportError):
                    await self.client.get("/openapi.json")
                    return self
                await asyncio.sleep(0.02)

    async def __aexit__(self, *_: object) -> None:
        await self.client.aclose()
        await self.stop()

    async def stop(self) -> None:
        self.serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.serving
