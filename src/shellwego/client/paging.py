"""How is a list read that the cloud gives page by page?"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TypeVar

from pydantic import BaseModel

from shellwego.client.transport import Query, Transport
from shellwego.protocol.public import Page

T = TypeVar("T", bound=BaseModel)


async def every(transport: Transport, path: str, of: type[T], query: Query | None = None) -> AsyncIterator[T]:
    """Every item of a list, page after page."""
    cursor: str | None = None
    while True:
        page = await transport.get(path, Page[of], query={**(query or {}), "cursor": cursor})  # type: ignore[valid-type]
        for item in page.items:
            yield item
        cursor = page.next_cursor
        if cursor is None:
            return
