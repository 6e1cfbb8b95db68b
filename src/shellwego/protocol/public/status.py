"""How the cloud is: its health part by part, and all of it at a glance."""

from __future__ import annotations

from typing import Any

from shellwego.protocol.public.bodies import Answer
from shellwego.protocol.public.nodes import Node


class HealthPart(Answer):
    name: str
    ok: bool
    detail: str = ""


class HealthAnswer(Answer):
    """`GET /health`: 200 when every part is ok, 503 otherwise. Each part was asked for this answer."""

    ok: bool
    version: str
    parts: list[HealthPart]


class CloudStatus(Answer):
    """`GET /v1/status`: the whole cloud in one answer, for `shellwego status`."""

    version: str
    domain: str
    apps: dict[str, int]
    """How many apps are in each status."""
    instances: dict[str, int]
    nodes: list[Node]
    edges: list[dict[str, Any]]
    problems: list[str]
    """What an operator should look at now, each with what to do."""
