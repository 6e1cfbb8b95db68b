"""One cloud per test module, and a look at what it left behind when it is gone."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.e2e.cloud import RunningCloud, instance_in
from tests.e2e.ears import Ears
from tests.e2e.inside import deploy_victim
from tests.leaks import host_network, inventory

EXAMPLES = Path(__file__).parents[2] / "examples"
LAST_LINES = 20
LINE_CHARACTERS = 400


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCloud]:
    """A running cloud with nothing deployed."""
    with cloud_for_a_while(RunningCloud(tmp_path_factory.mktemp("e2e") / "cloud")) as running:
        yield running


@contextlib.contextmanager
def cloud_for_a_while(running: RunningCloud) -> Iterator[RunningCloud]:
    """Starts it; Ctrl-C and uninstall at the end, then nothing may be left."""
    before = host_network()
    try:
        running.start()
        short = running.short
        yield running
    finally:
        with contextlib.suppress(OSError):  # So that a failure can be looked into when the cloud is gone.
            shutil.copytree(running.data / "logs", running.data.parent / "logs", dirs_exist_ok=True)
        with contextlib.suppress(Exception):
            if running.process is not None:
                running.stop()
        removed = running.run("uninstall", "--data-dir", str(running.data), "--yes", token="none")
    assert removed.code == 0, removed.err
    assert inventory(short, running.data) == []
    assert host_network() == before


@pytest.fixture(autouse=True)
def no_orphans(cloud: RunningCloud) -> Iterator[None]:
    """After every test: no sandbox, namespace, address, mount or cgroup beyond the instances that should run."""
    if cloud.process is None or cloud.process.poll() is not None:
        cloud.start()  # One that a test left dead would fail all that come after, and the test's own second try.
    yield
    if cloud.process is None:
        return
    wanted = {i["id"].split("_")[1] for i in cloud.json("instances", "list")}
    left = [
        line
        for line in inventory(cloud.short, cloud.data)
        if (name := instance_in(line)) is not None and name not in wanted
    ]
    assert left == []


@pytest.fixture
def app(cloud: RunningCloud, request: pytest.FixtureRequest) -> Iterator[str]:
    """A name for this test's app, deleted after it."""
    name = "t-" + request.node.originalname.removeprefix("test_").replace("_", "-")[:34].rstrip("-")
    yield name
    cloud.run("apps", "delete", name, "--yes", "--wait")


@pytest.fixture(scope="module")
def victim(cloud: RunningCloud, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Somebody else's app, for tests in which its neighbours misbehave."""
    return deploy_victim(cloud, tmp_path_factory)


@pytest.fixture(scope="module")
def ears() -> Iterator[Ears]:
    """Servers where a tenant must not come."""
    listening = Ears()
    yield listening
    listening.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What the cloud said last stands under a failure: on another machine nobody can look into its logs."""
    report = yield
    cloud = getattr(item, "funcargs", {}).get("cloud")
    if report.failed and isinstance(cloud, RunningCloud):
        for path in (cloud.up_log, *sorted((cloud.data / "logs").glob("*"))):
            with contextlib.suppress(OSError):
                lines = path.read_text(errors="replace").splitlines()[-LAST_LINES:]
                report.sections.append(
                    (f"the last of {path.name}", "\n".join(line[:LINE_CHARACTERS] for line in lines))
                )
    return report
