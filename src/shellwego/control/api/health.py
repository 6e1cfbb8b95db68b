"""Is the cloud well, and how busy is it?

`/health` asks every part for each answer, with a limit: what it says is so. `/metrics` is for Prometheus, open to this
machine and to operators.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from shellwego.control.api.calls import caller_of, credential_of
from shellwego.control.api.parts import ApiParts, parts_of
from shellwego.control.services.callers import ensure_operator
from shellwego.control.services.signing import Claims
from shellwego.core.errors import ShellWeGoError, Unavailable
from shellwego.protocol import public

router = APIRouter(tags=["health"])

_ASK_SECONDS = 5.0


@router.get(
    "/health",
    operation_id="getHealth",
    response_model=public.HealthAnswer,
    responses={503: {"model": public.HealthAnswer, "description": "A part isn't well."}},
)
async def get_health(request: Request) -> Response:
    """200 when every part is well, 503 otherwise. Each part was asked for this answer."""
    parts = parts_of(request)
    checks: dict[str, Callable[[], Awaitable[str]]] = {
        "database": lambda: _database(parts),
        "bus": lambda: _bus(parts),
        "signing key": lambda: _signing_key(parts),
        "agents": lambda: _agents(parts),
        **parts.checks,
    }
    found = await asyncio.gather(*(_asked(name, check) for name, check in checks.items()))
    ok = all(part.ok for part in found)
    answer = public.HealthAnswer(ok=ok, version=parts.settings.version, parts=list(found))
    return Response(answer.model_dump_json(), status_code=200 if ok else 503, media_type="application/json")


@router.get("/metrics", operation_id="getMetrics", response_class=Response)
async def get_metrics(request: Request) -> Response:
    """For Prometheus. Without a token from this machine only; through the proxy, and from elsewhere, as an operator."""
    parts = parts_of(request)
    host = request.client.host if request.client is not None else ""
    if host not in {"127.0.0.1", "::1"}:
        async with parts.store.reading() as work:
            caller, _ = await caller_of(work, credential_of(request))
            ensure_operator(caller)
    registry: CollectorRegistry = request.app.state.registry
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


async def _asked(name: str, check: Callable[[], Awaitable[str]]) -> public.HealthPart:
    try:
        async with asyncio.timeout(_ASK_SECONDS):
            return public.HealthPart(name=name, ok=True, detail=await check())
    except TimeoutError:
        return public.HealthPart(name=name, ok=False, detail=f"no answer in {_ASK_SECONDS:g} s")
    except ShellWeGoError as error:
        return public.HealthPart(name=name, ok=False, detail=str(error))


async def _database(parts: ApiParts) -> str:
    began = parts.monotonic()
    async with parts.store.reading() as work:
        await work.ping()
    return f"answered in {(parts.monotonic() - began) * 1000:.0f} ms"


async def _bus(parts: ApiParts) -> str:
    await parts.bus.ping()
    return ""


async def _signing_key(parts: ApiParts) -> str:
    now = dt.datetime.now(dt.UTC)
    token = parts.signing.sign(Claims("health", "health"), now=now, token_id="health")  # noqa: S106 - names itself
    parts.signing.verify(token, now=now)
    return ""


async def _agents(parts: ApiParts) -> str:
    connected = len(parts.agents.connected)
    if connected == 0:
        raise Unavailable("Every agent", "none is connected. Running apps go on running; nothing new can start.")
    return f"{connected} connected"
