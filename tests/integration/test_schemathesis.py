"""
Whatever the OpenAPI document allows, and much that it forbids, is answered as the document says, and never with a 5xx.

Schemathesis reads the document and makes the calls: one by one with odd values, and in chains, where one call's answer
names what the next is about. SHELLWEGO_SCHEMATHESIS=50 makes fifty times as many.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase
from schemathesis import Case, GenerationMode, Response
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from tests.integration.agents import FakeStream
from tests.integration.conftest import World
from tests.integration.test_deployments import deploy, release, succeed
from tests.integration.wire import Wire

from shellwego.control.store.engine import sqlite_url
from shellwego.protocol.messages import StreamEnd

TIMES = int(os.environ.get("SHELLWEGO_SCHEMATHESIS", "1"))
TOLD = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
ENDLESS = "GET /v1/apps/{app}/deployments/{deployment}/events"
"""Ends with its deployment only, or when its client leaves, which Schemathesis doesn't."""


@pytest.fixture
def database_url(sqlite_template: Path, tmp_path: Path) -> str:
    """One database is enough: what is tried here are the answers' forms."""
    return sqlite_url(shutil.copy(sqlite_template, tmp_path / "store.db"))


async def test_every_operation_answers_as_documented_whatever_it_is_given(world: World):
    """Good and bad values for each parameter and field of each operation."""

    def attempt(schema: Any, bearer: dict[str, str]) -> Counter[str]:
        calls: Counter[str] = Counter()
        for found in schema.get_all_operations():
            operation = found.ok()
            if operation.label == ENDLESS:
                continue
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

                @settings(5 * TIMES)
                @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
                def one(case: Case) -> None:
                    calls[case.operation.label] += 1
                    tame(case)
                    case.validate_response(case.call(headers=bearer), checks=TOLD)

                try:
                    one()
                except hypothesis.errors.Unsatisfiable:
                    assert mode is GenerationMode.NEGATIVE  # Nothing about it can be wrong.
        return calls

    calls = await on_a_socket(world, attempt)
    assert len(calls) == sum(map(len, world.api.openapi()["paths"].values())) - 1
    assert calls.total() >= 250


async def test_chains_of_calls_answer_as_documented(world: World):
    """What one call made, others look at, change and delete, in any order."""

    def attempt(schema: Any, bearer: dict[str, str]) -> tuple[Counter[int], list[Exception]]:
        statuses: Counter[int] = Counter()
        refuted: list[Exception] = []

        class Machine(schema.exclude(path=ENDLESS.partition(" ")[2]).as_state_machine()):
            def before_call(self, case: Case) -> None:
                tame(case)

            def get_call_kwargs(self, case: Case) -> dict[str, Any]:
                return {"headers": bearer}

            def validate_response(self, response: Response, case: Case, **_: Any) -> None:
                statuses[response.status_code] += 1
                try:
                    case.validate_response(response, checks=TOLD)
                except Exception as error:  # Kept, and told at the end: by then Hypothesis would call it flaky.
                    refuted.append(error)

        for seed in range(20 * TIMES):
            # Answers bear new ids each time, so the choices that follow from them can't be made twice. Hypothesis
            # looks for that and ends the run; Schemathesis's own command goes on in the same way.
            with contextlib.suppress(hypothesis.errors.Flaky):
                hypothesis.seed(seed)(Machine).run(settings=settings(3))
        return statuses, refuted

    statuses, refuted = await on_a_socket(world, attempt)
    if refuted:
        raise ExceptionGroup("answers that the document doesn't know", refuted)
    assert statuses.total() >= 100
    assert statuses[200] + statuses[201] + statuses[202] >= 15, f"the chains got nowhere: {statuses}"


async def on_a_socket(world: World, attempt: Any) -> Any:
    """Served as in production, with a session that no call can end. Schemathesis blocks, so it has a thread."""
    world.agents.on_open = end_at_once
    async with world.client(world.first.token) as client:
        await client.post("/v1/apps", json={"name": "blog"})
        made = await deploy(client, image="x", config={"KEY": "value"})
    await release(world, made["id"])
    await succeed(world, made["id"])
    async with Wire(world.api) as wire:
        login = {"email": world.first.email, "password": world.first.password}
        session = (await wire.client.post("/v1/auth/login", json=login)).json()
        bearer = {"Authorization": f"Bearer {session['access_token']}"}
        schema = await asyncio.to_thread(schemathesis.openapi.from_url, f"{wire.url}/openapi.json")
        return await asyncio.to_thread(attempt, schema, bearer)


def end_at_once(stream: FakeStream) -> None:
    stream.say(StreamEnd())


def tame(case: Case) -> None:
    """Nobody waits for lines that never come."""
    if case.operation.label.endswith("/logs") and case.query:
        case.query.pop("follow", None)


def settings(examples: int) -> hypothesis.settings:
    return hypothesis.settings(
        max_examples=examples,
        stateful_step_count=10,
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )
