"""Does a real cloud do as the model of `cloud_model.py`, whatever is asked for in whatever order?

The machine that `integration/test_model.py` plays in virtual time, a short while on the real engines: always the same
walks in `make test`, others and longer ones in `make survive`. SHELLWEGO_MODEL_EXAMPLES says how many, and
SHELLWEGO_MODEL_STEPS how long.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule, run_state_machine_as_test

from tests.cloud_model import BROKEN, DEAF, GOOD, KEYS, CloudModel, Content
from tests.e2e.cloud import RunningCloud
from tests.e2e.faults import Api, nothing_else_left
from tests.images import busybox_layout
from tests.registry import running_registry

pytestmark = [pytest.mark.root, pytest.mark.timeout(1800)]

PROGRAMS = {
    GOOD: f"echo {GOOD} A=$A B=$B > /srv/index.html; exec httpd -f -p 8080 -h /srv",
    DEAF: "exec sleep 1000",
    BROKEN: "exit 3",
}


# A start period in which a busy machine starts a sandbox; a deaf image takes all of it.
HEALTH = {"kind": "tcp", "interval_seconds": 1, "timeout_seconds": 2, "start_period_seconds": 10, "retries": 2}
RESOURCES = {"memory_mib": 64, "cpu_millis": 200, "pids": 32, "disk_mib": 16}


class Machine(CloudModel):
    cloud: RunningCloud
    api: Api
    images: dict[str, str]
    patience_seconds, rest_seconds = 120.0, 4.0
    health = HEALTH
    resources = RESOURCES

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        token = (self.cloud.data / "admin-token").read_text().strip()
        self.http = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{self.cloud.api_port}",
            headers={"Authorization": f"Bearer {token}"},
            timeout=30,
        )

    def image(self, behaviour: str) -> str:
        return self.images[behaviour]

    def teardown(self) -> None:
        try:
            self.do(self._settle())
        finally:
            self.do(self.http.aclose())
            self.loop.close()
            self.api.delete(*self.apps)
        nothing_else_left(self.cloud, self.api)

    # --- rules: what happens to them --------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.0, 0.3, 1.0, 3.0]))
    def wait(self, seconds: float) -> None:
        self.do(asyncio.sleep(seconds))

    @invariant()
    def the_api_answers(self) -> None:
        self.do(self.ask("GET", "/v1/status"))

    # --- the cloud's side -------------------------------------------------------------------------------------------

    async def starts(self) -> object:
        seen = (await self.ask("GET", "/v1/instances?limit=100"))["items"]
        return {(i["id"], i["started_at"], i["restarts"]) for i in seen}

    async def check_app(self, name: str, content: Content | None, instances: list[dict[str, Any]]) -> None:
        answer = await asyncio.to_thread(self.cloud.get, name)
        if content is None or content.behaviour != GOOD or not instances:
            assert answer.status == 503, f"{name}: {answer}"
            return
        values = " ".join(f"{key}={content.config.get(key, '')}" for key in KEYS)
        assert (answer.status, answer.body.strip()) == (200, f"{GOOD} {values}"), name

    async def check_rest(self, wanted: set[str]) -> None:
        """What the machine holds is looked at in the end: it takes longer than a step."""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    directory = tmp_path_factory.mktemp("registry")
    with running_registry(directory) as registry:
        yield {
            behaviour: registry.push(
                busybox_layout(directory / behaviour, cmd=("sh", "-c", program), files={"/srv/index.html": ""}),
                f"{behaviour}:1",
            )
            for behaviour, program in PROGRAMS.items()
        }


@pytest.mark.parametrize(
    ("examples", "steps", "fixed"),
    [
        pytest.param(3, 15, True, id="the same walks"),
        pytest.param(
            int(os.environ.get("SHELLWEGO_MODEL_EXAMPLES", "12")),
            int(os.environ.get("SHELLWEGO_MODEL_STEPS", "25")),
            False,
            id="other walks",
            marks=pytest.mark.long,
        ),
    ],
)
def test_a_real_cloud_does_as_the_model(
    cloud: RunningCloud, images: dict[str, str], examples: int, steps: int, fixed: bool
) -> None:
    Machine.cloud, Machine.images = cloud, images
    with contextlib.closing(Api(cloud)) as api:
        Machine.api = api
        run_state_machine_as_test(  # type: ignore[no-untyped-call]
            Machine,
            settings=settings(
                max_examples=examples,
                stateful_step_count=steps,
                derandomize=fixed,
                database=None,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                phases=(Phase.generate,),  # Minutes for each try: a failure is read, not made smaller.
            ),
        )
