"""Nodes: the machines of the cloud."""

from __future__ import annotations

from collections.abc import AsyncIterator

from shellwego.client.paging import every
from shellwego.client.transport import Transport
from shellwego.protocol.public import Node


class Nodes:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> AsyncIterator[Node]:
        return every(self._transport, "/v1/nodes", Node)
