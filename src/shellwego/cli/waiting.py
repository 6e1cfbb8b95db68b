"""When is an app as it was asked to be, and when will it never be?"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from shellwego.cli.errors import Failed
from shellwego.cli.following import busy
from shellwego.cli.here import Here
from shellwego.core.apps import AppStatus
from shellwego.core.instances import InstanceGoal, InstanceState

if TYPE_CHECKING:
    from shellwego.client import Cloud
    from shellwego.protocol.public import App

Timeout = Annotated[
    float, typer.Option("--timeout", metavar="SECONDS", help="How long --wait waits.", min=1, show_default=True)
]
POLL_SECONDS = 0.5
_LOOK_CLOSER = 5


async def wait_until_running(here: Here, cloud: Cloud, app: str, timeout_seconds: float) -> App:
    """Every process type has as many healthy instances as desired, and none more."""
    return await _wait(here, cloud, app, _is_as_desired, timeout_seconds)


async def wait_until_stopped(here: Here, cloud: Cloud, app: str, timeout_seconds: float) -> App:
    return await _wait(
        here, cloud, app, lambda seen: not any(p.total for p in seen.processes.values()), timeout_seconds
    )


async def wait_until_gone(here: Here, cloud: Cloud, app: str, timeout_seconds: float) -> None:
    deadline = time.monotonic() + timeout_seconds
    with busy(here, "waiting for its instances to end"):
        while await cloud.apps.find(app) is not None:
            if time.monotonic() >= deadline:
                raise Failed(f"It is not gone after {timeout_seconds:g} s.", next_steps=("shellwego instances list",))
            await asyncio.sleep(POLL_SECONDS)


def _is_as_desired(seen: App) -> bool:
    if seen.status in {AppStatus.STOPPED, AppStatus.EMPTY}:
        return True  # Nothing runs and nothing shall: what was scaled holds from the next start.
    return all(p.healthy == p.desired == p.total for p in seen.processes.values())


async def _wait(here: Here, cloud: Cloud, app: str, done: Callable[[App], bool], timeout_seconds: float) -> App:
    here.if_interrupted = f"It goes on in the background.\n  → shellwego instances list {app}"
    deadline = time.monotonic() + timeout_seconds
    polls = 0
    with busy(here, f"waiting for {app}") as tell:
        while True:
            seen = await cloud.apps.get(app)
            if done(seen):
                here.if_interrupted = ""
                return seen
            tell("; ".join(f"{n}: {p.healthy} healthy of {p.desired}" for n, p in sorted(seen.processes.items())))
            polls += 1
            is_hopeless = seen.status is AppStatus.CRASHED
            if not is_hopeless and polls % _LOOK_CLOSER == 0:  # One of many may crash for ever: "degraded".
                found = [i async for i in cloud.instances.list(seen.id)]
                is_hopeless = any(i.state is InstanceState.CRASH_LOOP and i.goal is InstanceGoal.RUN for i in found)
            if is_hopeless or time.monotonic() >= deadline:
                raise await _reason(cloud, seen, timeout_seconds)
            await asyncio.sleep(POLL_SECONDS)


async def _reason(cloud: Cloud, seen: App, timeout_seconds: float) -> Failed:
    why = seen.status_reason or f"it is not as asked for after {timeout_seconds:g} s."
    lines = [
        f"{instance.process} {instance.id}: {instance.state.value} {instance.reason}".rstrip()
        async for instance in cloud.instances.list(seen.id)
        if instance.state not in {InstanceState.HEALTHY, InstanceState.STOPPED}
    ]
    return Failed(f"{seen.name} is {seen.status.value}: {why}", details=tuple(lines[:10]),
                  next_steps=(f"shellwego logs {seen.name}",))  # fmt: skip
