"""Killed at every step of everything that it does, the cloud goes on, and nobody who uses an app notices.

One cloud and one busy app of three instances for all of it. Points are armed a few at a time, so that each run of a
story dies at several of them, one after the other; half of the runs take server, agent and edge down together.
SHELLWEGO_EVERY_POINT=1 plays a story of its own for each point, alone and together.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cloud import RunningCloud, eventually
from tests.e2e.conftest import cloud_for_a_while
from tests.e2e.faults import STORIES, Arms, Stage, Www, every_point, on_stage, points_of, story_of
from tests.leaks import inventory
from tests.registry import running_registry

pytestmark = [pytest.mark.root, pytest.mark.timeout(3600 if os.environ.get("SHELLWEGO_EVERY_POINT") else 900)]

EACH = bool(os.environ.get("SHELLWEGO_EVERY_POINT"))
AT_ONCE = {"build": 2}
"""How many points are armed for one run of a story: a build that was interrupted three times is given up."""


@pytest.fixture(scope="module")
def arms(tmp_path_factory: pytest.TempPathFactory) -> Arms:
    return Arms(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def env(arms: Arms) -> dict[str, str]:
    # Killed twice a second, the processes of a cloud aren't started again at once: only a test would want that.
    return {"SHELLWEGO_FAULTS_DIR": str(arms.directory), "SHELLWEGO_LONGEST_RESTART_SECONDS": "0.2"}


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory, arms: Arms, env: dict[str, str]) -> Iterator[RunningCloud]:
    """A cloud whose very first start dies at each of its points."""
    arms.arm("exit", *points_of("start"))
    with cloud_for_a_while(RunningCloud(tmp_path_factory.mktemp("e2e") / "cloud", env=env)) as running:
        yield running


@pytest.fixture(scope="module")
def stage(cloud: RunningCloud, arms: Arms, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    left = arms.disarm()
    directory = tmp_path_factory.mktemp("registry")
    with running_registry(directory) as registry, on_stage(cloud, arms, Www(registry, directory)) as stage:
        stage.not_reached_at_start = left
        yield stage


def test_every_point_has_a_story() -> None:
    """A new step that no test kills would be the one that breaks in the night."""
    points = every_point()
    assert [point for point in sorted(points) if story_of(point) is None] == []
    idle = [beginning for beginning in STORIES if not any(point.startswith(beginning) for point in points)]
    assert idle == [], "no such point any more"
    root = Path(__file__).parents[2]
    for place in {story for story in STORIES.values() if "::" in story}:
        file, _, name = place.partition("::")
        assert f"def {name}(" in (root / file).read_text(), place


def test_killed_at_every_step_of_its_first_start(stage: Stage) -> None:
    """The cloud of this module came up although its processes died at every step of coming up."""
    assert stage.not_reached_at_start == set()


@pytest.mark.parametrize("together", [False, True], ids=["alone", "together"])
@pytest.mark.parametrize("story", ["deploy", "another app", "illness", "build"])
def test_killed_at_every_step(stage: Stage, story: str, together: bool) -> None:
    """No request fails, the story comes to its right end, nothing is left behind."""
    points = points_of(story)
    if not EACH:
        points = points[together::2]  # Half of them each; with SHELLWEGO_EVERY_POINT all, both ways.
    never = set(points)
    rounds = -(-len(points) // (1 if EACH else AT_ONCE.get(story, 9)))
    for number in range(rounds):
        # Spread out: a server that dies three times while it looks up the image has given up the deployment.
        never -= _play(stage, story, points[number::rounds], together=together)
    for point in sorted(never):  # Another death on the way led around it.
        never -= _play(stage, story, [point], together=together)
    assert never == set(), f"the story {story!r} doesn't pass these"


def _play(stage: Stage, story: str, points: list[str], *, together: bool) -> set[str]:
    """Play the story with these points armed. Which of them were reached."""
    arms = stage.arms
    arms.arm("exit-all" if together else "exit", *points)
    with stage.load() as load:
        try:
            stage.play(story)
        finally:
            left = arms.disarm()  # Whatever comes next must not die of what is left here.
        eventually("the cloud is well again", stage.cloud.is_up)
    assert load.failures == [], points
    return {point for point in points if point not in left}


ROUTE_CHANGES = [point for point in sorted(every_point()) if point.startswith("edge.apply.")]

CUT_OFF = ("RemoteDisconnected", "ConnectionReset", "IncompleteRead")
"""Before the answer's first byte, or after it."""


@pytest.mark.long
def test_the_proxy_killed_at_every_step_of_a_route_change(stage: Stage) -> None:
    """Whoever comes while it is away waits; only what it had in its hands is lost."""
    reached = set()
    for story in ("deploy", "another app"):
        for point in [point for point in ROUTE_CHANGES if story_of(point) == story]:
            pids = eventually("HAProxy runs", lambda: stage.cloud.pids("haproxy"))
            stage.arms.arm(f"kill:{','.join(map(str, pids))}", point)
            with stage.load() as load:
                stage.play(story)
            reached.add(point)
            assert stage.arms.disarm() == set(), point
            lost = [said for said in load.failures if any(sign in said for sign in CUT_OFF)]
            assert load.failures == lost, point
            assert len(lost) <= 3, "each of three clients had at most one request under way"
    assert reached


def test_killed_at_every_step_of_its_end(stage: Stage) -> None:
    """Ctrl-C, cut off again and again: what is left is ended by the next try, and all comes back afterwards."""
    cloud, points = stage.cloud, points_of("down")
    stage.arms.arm("exit", *points)
    assert cloud.stop() == 137
    for _ in points:
        said = cloud.run("down", "--data-dir", str(cloud.data), token="none", env=cloud.env)
        if said.code == 0:
            break
    assert said.code == 0, said.err
    assert stage.arms.disarm() == set()
    assert inventory(cloud.short, cloud.data) == []
    cloud.start()
    eventually("the app answers again", lambda: cloud.get(stage.app).body == stage.page)
    stage.settled()
