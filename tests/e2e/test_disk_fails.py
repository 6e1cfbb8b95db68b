"""The disk fails: the kernel stops writing, the device is gone, or what was written never arrives.

Apps are served, nothing is said to be done that isn't, and a disk that was mended finds its cloud again.
"""

from __future__ import annotations

import contextlib
import http.client
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from shellwego.core.deployments import DeploymentState
from tests.e2e.cloud import RunningCloud, eventually, is_well, problems
from tests.e2e.conftest import cloud_for_a_while
from tests.e2e.faults import Arms, Stage, Www, on_stage, small
from tests.e2e.power import cut_the_power
from tests.e2e.small_disk import SmallDisk, small_disk
from tests.registry import running_registry

pytestmark = [pytest.mark.root, pytest.mark.long, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallDisk]:
    with small_disk(tmp_path_factory.mktemp("failing"), size_mib=1024) as disk:
        yield disk


@pytest.fixture(scope="module")
def cloud(disk: SmallDisk) -> Iterator[RunningCloud]:
    with cloud_for_a_while(RunningCloud(disk.path / "cloud", log=disk.image.with_name("up.log"))) as running:
        yield running


@pytest.fixture(scope="module")
def stage(cloud: RunningCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    directory = tmp_path_factory.mktemp("registry")
    with running_registry(directory) as registry:
        arms = Arms(tmp_path_factory.mktemp("faults"))
        with on_stage(cloud, arms, Www(registry, directory)) as stage:
            yield stage


# --- what was written never arrives ---------------------------------------------------------------------------------


@contextlib.contextmanager
def fsync_fails(cloud: RunningCloud, process: str) -> Iterator[None]:
    """Each fsync(2) of this process, as it runs now, ends with EIO."""
    [pid] = cloud.pids(process)
    threads = [thread.name for thread in Path(f"/proc/{pid}/task").iterdir()]
    # What an agent starts isn't followed: a sandbox that is traced already can't trace its own processes.
    follow = tuple(w for id in threads for w in ("-p", id)) if process == "agent" else ("-f", "-p", str(pid))
    strace = subprocess.Popen(("strace", "-qq", "-o", "/dev/null", "-e", "inject=fsync,fdatasync:error=EIO", *follow))
    try:
        eventually("it is followed", lambda: all(_is_traced(Path(f"/proc/{pid}/task", id)) for id in threads))
        yield
    finally:
        strace.terminate()
        try:
            strace.wait(timeout=5)
        except subprocess.TimeoutExpired:
            # It waits for ever for a process that ended in the moment in which it let go of it, and nobody else can see
            # that one's end as long as it does.
            strace.kill()
            strace.wait(timeout=30)


def _is_traced(task: Path) -> bool:
    return "TracerPid:\t0" not in (task / "status").read_text()


def test_a_commit_that_never_reached_the_disk_is_not_acknowledged(stage: Stage) -> None:
    """The server ends with a word instead of building on what may be lost, and is started again."""
    cloud = stage.cloud
    with stage.load() as load:
        old = set(cloud.pids("server"))
        with fsync_fails(cloud, "server"):
            assert not is_acknowledged(cloud, "unkept")
            eventually("the server has ended", lambda: not old & set(cloud.pids("server")))
        eventually("it is back", cloud.is_up)
        assert "failed to keep a commit" in (cloud.data / "logs" / "server.out").read_text()
        assert "The server ended" in cloud.up_log.read_text()
        made = cloud.ask("POST", "/v1/apps", {"name": "kept"})
        assert made.status == 201, made.body
        cloud.kill("server")
        eventually("it is back", cloud.is_up)
        assert cloud.ask("GET", "/v1/apps/kept").status == 200
    assert load.failures == []
    stage.api.delete("kept", "unkept")
    eventually("all is well", lambda: is_well(cloud))
    stage.settled()


def is_acknowledged(cloud: RunningCloud, app: str) -> bool:
    """Whether somebody who makes an app hears that it was made. The server may have ended for another's sake."""
    try:
        return cloud.ask("POST", "/v1/apps", {"name": app}).status != 503
    except (OSError, http.client.HTTPException):
        return False


def test_a_node_begins_nothing_that_its_disk_does_not_keep(stage: Stage) -> None:
    """What runs goes on and is started again; the node says why it takes nothing new, and does so when it can."""
    cloud, api = stage.cloud, stage.api
    api.create("newcomer")
    with stage.load() as load:
        with fsync_fails(cloud, "agent"):
            said = api.deploy("newcomer", small(stage.www.push("new here")))
            eventually("it is told", lambda: [p for p in problems(cloud) if "state can't be written" in p])
            [node] = cloud.json("nodes", "list")
            assert node["state"] == "unhealthy"
            assert cloud.get("newcomer").status == 503
        ended = api.until_ended("newcomer", said)
        assert ended.state is DeploymentState.SUCCEEDED, f"{ended.reason} {ended.last_lines}"
        assert cloud.get("newcomer").body == "new here"
        eventually("all is well", lambda: is_well(cloud))
    assert load.failures == []
    api.delete("newcomer")
    stage.settled()


def test_a_proxy_whose_routes_are_not_kept_serves_them_all_the_same(stage: Stage) -> None:
    """Routes are told again by every server: the proxy goes on, and the operator hears what a restart would forget."""
    cloud = stage.cloud
    with stage.load() as load:
        with fsync_fails(cloud, "edge"):
            stage.deploy()
            eventually("it is told", lambda: [p for p in problems(cloud) if p.startswith("Edge")])
        stage.deploy()
        eventually("all is well", lambda: is_well(cloud))
    assert load.failures == []


# --- nothing can be written any more --------------------------------------------------------------------------------


def test_a_disk_that_the_kernel_stopped(stage: Stage, disk: SmallDisk) -> None:
    """
    Apps are served, also when server, agent and edge are killed. `status` says what is wrong, changes are refused,
    `uninstall` and `down` say what they could not do, and can be asked again after a check of the disk.
    """
    cloud = stage.cloud
    with stage.load() as load:
        disk.stop_writing()
        eventually("it is told", lambda: [p for p in problems(cloud) if "read-only" in p])
        changes = (
            ("POST", "/v1/apps", {"name": "newcomer"}),
            ("PATCH", f"/v1/apps/{stage.app}", {"replicas": {"web": 2}}),
            ("POST", f"/v1/apps/{stage.app}/stop", None),
            ("DELETE", f"/v1/apps/{stage.app}", None),
        )
        assert [cloud.ask(*change).status for change in changes] == [503] * len(changes)
        assert cloud.upload(stage.app, 4096).status == 503
        assert len(stage.api.instances()) == 3
        cloud.kill("server", "agent", "edge")
        sent = load.sent
        eventually("requests flow on", lambda: load.sent > sent + 200)
        eventually("what is wrong is told again", lambda: [p for p in problems(cloud) if "read-only" in p])
    assert load.failures == []
    cloud.stop()
    say_what_they_can(cloud)
    disk.repair()
    cloud.start()
    is_as_it_was(stage)


def test_what_was_deployed_a_moment_before_the_disk_stopped(stage: Stage, disk: SmallDisk) -> None:
    """The image's files never reached the disk. Checked and mounted, without a reboot, it runs with its content."""
    stage.deploy()
    disk.stop_writing()
    stage.cloud.stop()
    disk.repair()
    stage.cloud.start()
    is_as_it_was(stage)


def test_a_disk_that_is_gone(stage: Stage, disk: SmallDisk) -> None:
    """Nothing can be read either, not even by the apps: nobody gets a traceback, and all comes back with the disk."""
    cloud, token = stage.cloud, stage.cloud.token
    stage.deploy()
    disk.take_away()
    eventually("it is told", lambda: cloud.ask("GET", "/v1/apps", token=token).status == 503)
    say_what_they_can(cloud)
    cut_the_power(cloud)
    disk.repair()
    cloud.start()
    is_as_it_was(stage)


def is_as_it_was(stage: Stage) -> None:
    """What was deployed last is there, and the next deploy works."""
    stage.settled()
    eventually("all is well", lambda: is_well(stage.cloud))
    stage.deploy()


def say_what_they_can(cloud: RunningCloud) -> None:
    """The two commands that end a cloud do their work or say what they could not do."""
    assert "Traceback" not in cloud.up_log.read_text()
    for command in ("uninstall", "--yes"), ("down",):
        said = cloud.run(*command, "--data-dir", str(cloud.data), token="none")
        assert "Traceback" not in said.err
        assert said.code == 0 or said.err.startswith("shellwego: "), said.err
