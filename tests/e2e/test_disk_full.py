"""The disk is full: what runs is served, what can't be done says why, and it passes.

One cloud on a small disk of its own, with an app of three instances that somebody uses all the time.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

from shellwego.core.deployments import DeploymentState
from tests.e2e.cloud import RunningCloud, eventually, is_well, problems
from tests.e2e.conftest import cloud_for_a_while
from tests.e2e.faults import Arms, Stage, Www, on_stage, small
from tests.e2e.small_disk import SmallDisk, small_disk
from tests.images import busybox_layout
from tests.registry import running_registry

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallDisk]:
    with small_disk(tmp_path_factory.mktemp("small"), size_mib=2048) as disk:
        yield disk


@pytest.fixture(scope="module")
def cloud(disk: SmallDisk) -> Iterator[RunningCloud]:
    with cloud_for_a_while(RunningCloud(disk.path / "cloud", log=disk.image.with_name("up.log"))) as running:
        yield running
        with contextlib.suppress(OSError):
            disk.free()


@pytest.fixture(scope="module")
def stage(cloud: RunningCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    directory = tmp_path_factory.mktemp("registry")
    with running_registry(directory) as registry:
        arms = Arms(tmp_path_factory.mktemp("faults"))
        with on_stage(cloud, arms, Www(registry, directory)) as stage:
            yield stage


def test_too_little_room_for_what_is_asked(stage: Stage, disk: SmallDisk, tmp_path: Path) -> None:
    """
    A pull, an upload and a build that don't fit any more end with the cause and what to do; nothing of them is left
    behind, nobody's app notices, and the same command works when there is room.
    """
    cloud = stage.cloud
    (tmp_path / "index.html").write_text("built")
    stage.api.create("uploaded")
    with stage.load() as load:
        disk.fill(leave_mib=8)
        uploaded = cloud.upload("uploaded", 16 << 20)
        assert uploaded.status == 507
        refused = [uploaded.body]
        for name, origin in (("pulled", ("--image", stage.www.push_bytes(24 << 20))), ("built", (str(tmp_path),))):
            said = cloud.run("deploy", *origin, "--name", name, "--memory", "64m", "--wait")
            assert said.code != 0
            refused.append(said.err)
        for words in refused:
            assert "No space left on the node's disk" in words
            assert "Free some space" in words
        assert [p for p in problems(cloud) if "% full" in p]
        images, server = cloud.data / "images", cloud.data / "server"
        for place in (images / "partial", images / "unpacking", images / "trash", server / "work"):
            eventually(f"nothing is left in {place.name}", lambda place=place: list_of(place) == [])
        assert [path.name for path in (server / "sources").iterdir() if path.stat().st_size > 1 << 20] == []
        disk.free()
        cloud.do("deploy", str(tmp_path), "--name", "built", "--memory", "64m", "--wait")
        assert cloud.get("built").body == "built"
    assert load.failures == []
    for name in ("pulled", "uploaded", "built"):
        stage.api.delete(name)
    stage.settled()


@pytest.mark.long
def test_a_build_that_meets_the_end_of_the_disk(stage: Stage, disk: SmallDisk, tmp_path: Path) -> None:
    """
    Its own disk is a file on the one that all share: it is ended with the cause before that is full, so that nobody
    else is refused anything, and the next build finds a sound disk again.
    """
    cloud = stage.cloud
    (tmp_path / "index.html").write_text("built after all")
    fill = "FROM debian:bookworm\nRUN head -c 1500M /dev/urandom > /fill\nCMD sleep infinity\n"
    (tmp_path / "Dockerfile").write_text(fill)
    with stage.load() as load:
        disk.fill(leave_mib=700)
        with changes_all_the_time(stage) as answers:
            said = cloud.run("deploy", str(tmp_path), "--name", "greedy", "--memory", "64m", "--wait")
        assert set(answers) == {200}
        assert said.code != 0
        assert "No space left on the node's disk" in said.out + said.err, said.out + said.err
        disk.free()
        (tmp_path / "Dockerfile").unlink()
        cloud.do("deploy", str(tmp_path), "--name", "greedy", "--memory", "64m", "--wait")
        assert cloud.get("greedy").body == "built after all"
        eventually("all is well again", lambda: is_well(cloud))
    assert load.failures == []
    stage.api.delete("greedy")
    stage.settled()


@pytest.mark.long
def test_not_one_byte_is_left(stage: Stage, disk: SmallDisk) -> None:
    """
    While an instance writes its log, another crashes, and server, agent and edge are killed again and again: running
    apps are served, reading works, and a change is either kept or refused with the cause. Nothing is cut off in the
    middle, and with room again all goes on by itself.
    """
    cloud, api = stage.cloud, stage.api
    talk = "httpd -p 8080 -h /srv; while :; do echo 'so much to say'; sleep 0.05; done"
    page = {"/srv/index.html": "still here"}
    layout = busybox_layout(stage.www.directory / "talker", cmd=("sh", "-c", talk), files=page)
    talker = small(stage.www.registry.push(layout, "talker:1"))
    for name in ("talker", "crasher", "stopped", "deleted"):
        api.create(name)
        assert api.until_ended(name, api.deploy(name, talker)).state is DeploymentState.SUCCEEDED
    made: dict[str, int] = {}
    with stage.load() as load:
        with disk.kept_full():
            eventually("it is told", lambda: [p for p in problems(cloud) if "disk is full" in p])
            for names in (("server",), ("agent",), ("edge",), ("server", "agent", "edge")):
                old = {pid for name in names for pid in cloud.pids(name)}
                cloud.kill(*names)
                eventually("they are back", lambda names=names, old=old: all_anew(cloud, names, old) and cloud.is_up())
                cloud.run("exec", "crasher", "--", "sh", "-c", "kill -9 1; kill -9 -1")
                make_until_refused(cloud, made)
                assert len(api.instances()) == 7
                assert [cloud.get(name).body for name in ("talker", "stopped", "deleted")] == ["still here"] * 3
                sent = load.sent
                eventually("requests flow on", lambda sent=sent: load.sent > sent + 100)
            wish = talker.model_dump(mode="json", exclude_defaults=True)
            refusable = [
                cloud.ask("POST", f"/v1/apps/{stage.app}/deployments", wish | {"image": stage.www.push_bytes(1 << 20)}),
                cloud.ask("POST", "/v1/apps/stopped/stop"),
                cloud.ask("DELETE", "/v1/apps/deleted"),
            ]
        assert {answer.status for answer in refusable} <= {200, 202, 507}
        assert {507} <= set(made.values()) <= {201, 507}
        for app, status in made.items():
            assert (cloud.ask("GET", f"/v1/apps/{app}").status == 200) == (status == 201), app
        api(lambda client: client.apps.stop("stopped"))
        api.delete("deleted")
        eventually("the crashed one is back", lambda: cloud.get("crasher").body == "still here")
        eventually("all is well again", lambda: is_well(cloud))
        stage.deploy()
        last = cloud.do("logs", "talker", "--tail", "1").out
        eventually("it is heard again", lambda: cloud.do("logs", "talker", "--tail", "1").out != last)
    assert load.failures == []
    assert list(cloud.data.rglob("*.damaged")) == []
    api.delete("talker", "crasher", "stopped", *made)
    stage.settled()


def make_until_refused(cloud: RunningCloud, made: dict[str, int]) -> None:
    """New apps, as many as SQLite has room for in its log, and one more."""
    for number in range(len(made), len(made) + 300):
        made[f"app-{number}"] = cloud.ask("POST", "/v1/apps", {"name": f"app-{number}"}).status
        if made[f"app-{number}"] != 201:
            return


def all_anew(cloud: RunningCloud, names: Collection[str], old: Collection[int]) -> bool:
    return all(set(cloud.pids(name)).difference(old) for name in names)


@contextlib.contextmanager
def changes_all_the_time(stage: Stage) -> Iterator[list[int]]:
    """Somebody else has something written down again and again: the statuses that they are answered with."""
    stop, answers = threading.Event(), list[int]()

    def change() -> None:
        while not stop.wait(0.1):
            answers.append(stage.cloud.ask("PATCH", f"/v1/apps/{stage.app}", {"replicas": {"web": 3}}).status)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        yield answers
    finally:
        stop.set()
        thread.join()


def list_of(place: Path) -> list[str]:
    return [path.name for path in place.iterdir()] if place.exists() else []
