"""What an operator fears most: the wrong database, a machine that reboots, a clock that jumps. Apps go on or come back.

One cloud for all of it, with an app of three instances that somebody uses all the time.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import re
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from shellwego.core.deployments import DeploymentState
from shellwego.kit.load import Load, Target, constant_load
from tests.e2e.cloud import RunningCloud, eventually, is_well, problems
from tests.e2e.conftest import cloud_for_a_while
from tests.e2e.faults import Arms, Stage, Www, on_stage, small
from tests.e2e.power import cut_the_power
from tests.e2e.shelves import PostgresShelf, Shelf, SQLiteShelf
from tests.integration.postgres import Postgres, running_postgres
from tests.leaks import inventory
from tests.registry import Registry, running_registry

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def arms(tmp_path_factory: pytest.TempPathFactory) -> Arms:
    return Arms(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def env(arms: Arms) -> dict[str, str]:
    return {"SHELLWEGO_FAULTS_DIR": str(arms.directory)}


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory, env: dict[str, str]) -> Iterator[RunningCloud]:
    with cloud_for_a_while(RunningCloud(tmp_path_factory.mktemp("e2e") / "cloud", env=env)) as running:
        yield running


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with running_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="module")
def stage(
    cloud: RunningCloud, arms: Arms, registry: Registry, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    with on_stage(cloud, arms, Www(registry, tmp_path_factory.mktemp("layouts"))) as stage:
        yield stage


# --- the wrong database ---------------------------------------------------------------------------------------------


def test_a_server_with_another_database(stage: Stage, tmp_path: Path) -> None:
    """
    Last week's database, then none, then the right one again: no request of any app fails meanwhile, nothing is
    removed, the operator is told what to do, and in the end all is as it was.
    """
    older_then_empty_then_right(stage, SQLiteShelf(stage.cloud, tmp_path))


@pytest.mark.long
def test_a_server_with_another_postgresql_database(arms: Arms, registry: Registry, tmp_path: Path) -> None:
    """Likewise."""
    with running_postgres() as postgres:
        postgres.sql("CREATE DATABASE swg")
        mine = RunningCloud(tmp_path / "cloud", options=("--database-url", postgres.url("swg")))
        with cloud_for_a_while(mine), on_stage(mine, arms, Www(registry, tmp_path)) as stage:
            older_then_empty_then_right(stage, PostgresShelf(mine, postgres, "swg"))


def older_then_empty_then_right(stage: Stage, shelf: Shelf) -> None:
    cloud = stage.cloud
    shelf.copy_now("older")
    stage.deploy()
    stage.api.create("newcomer")
    said = stage.api.deploy("newcomer", small(stage.www.push("new here")))
    assert stage.api.until_ended("newcomer", said).state is DeploymentState.SUCCEEDED
    eventually("the newcomer answers", lambda: cloud.get("newcomer").body == "new here")
    before = {i.id: i.started_at for i in stage.api.instances()}
    running = monitors(cloud)

    with stage.load() as load, visitors(cloud, "newcomer") as other:
        shelf.swap("right", "older")
        assert "back-up-and-restore" in told_of_strangers(cloud, 4)
        eventually("what that database wants runs", lambda: states(stage) == ["healthy"] * 3)
        shelf.swap("older, used", None)
        assert "back-up-and-restore" in told_of_strangers(cloud, 7)
        assert stage.api.instances() == []
        assert running <= monitors(cloud), "nothing was removed"
        shelf.swap("empty, used", "right")
        eventually("all is as it was", lambda: is_well(cloud) and monitors(cloud) == running)
    assert load.failures == []
    assert other.failures == []
    stage.settled()
    assert {i.id: i.started_at for i in stage.api.instances()} == before
    assert other.bodies == ["new here"]
    stage.api.delete("newcomer")
    stage.settled()


def told_of_strangers(cloud: RunningCloud, count: int) -> str:
    """What the operator reads of instances that the server doesn't know."""
    words = f"runs {count} instances that this server knows nothing of"
    found: list[str] = eventually("the operator is told", lambda: [p for p in problems(cloud) if words in p])
    return found[0]


@contextlib.contextmanager
def visitors(cloud: RunningCloud, app: str) -> Iterator[Load]:
    """So few that one small instance bears them for minutes."""
    target = Target("127.0.0.1", cloud.http_port, "/", {"Host": f"{app}.{cloud.domain}"})
    with constant_load(target, clients=2, pause_seconds=0.1) as load:
        yield load


def states(stage: Stage) -> list[str]:
    return [i.state.value for i in stage.api.instances(stage.app)]


def monitors(cloud: RunningCloud) -> set[str]:
    """The process that watches over each sandbox: it is another one when the sandbox was started again."""
    lines = (line.split(maxsplit=3) for line in inventory(cloud.short, cloud.data))
    return {line[1] for line in lines if line[0] == "process" and line[2].endswith("conmon")}


# --- a new machine ----------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_backup_is_restored_onto_a_new_machine(cloud: RunningCloud, tmp_path: Path) -> None:
    """By the how-to: what was built, its configuration, its history and the token are as they were."""
    old, source = RunningCloud(tmp_path / "old"), tmp_path / "page"
    source.mkdir()
    (source / "index.html").write_text("built on the old machine")
    with cloud_for_a_while(old):
        old.do("deploy", str(source), "--name", "kept", "--wait")
        old.do("config", "set", "kept", "COLOUR=blue", "--wait")
        before = {kind: old.json(kind, "list", "kept") for kind in ("releases", "deployments")}
        token = (old.data / "admin-token").read_text()
        assert old.stop() == 0
        archive = tmp_path / "cloud.tar.gz"
        how_to("tar --create", {"/tmp/cloud.tar.gz": archive, "/tmp/docs-cloud": old.data})
    new = RunningCloud(tmp_path / "new", api_port=old.api_port, http_port=old.http_port, https_port=old.https_port)
    for command in ("mkdir", "tar --extract"):
        how_to(command, {"/tmp/cloud.tar.gz": archive, "/tmp/docs-restored": new.data})
    with cloud_for_a_while(new):
        eventually("the app is back", lambda: new.get("kept").body == "built on the old machine")
        assert new.json("config", "list", "kept") == {"COLOUR": "blue"}
        assert {kind: new.json(kind, "list", "kept") for kind in before} == before
        assert (new.data / "admin-token").read_text() == token
        (source / "index.html").write_text("built on the new one")
        new.do("deploy", str(source), "--name", "kept", "--wait")
        assert new.get("kept").body == "built on the new one"
        new.do("rollback", "kept", "--wait")
        assert new.get("kept").body == "built on the old machine"
        eventually("all is well", lambda: is_well(new))


def how_to(beginning: str, places: dict[str, Path]) -> None:
    """Run the one command of the how-to that begins so, with the test's own places."""
    text = (Path(__file__).parents[2] / "docs/how-to/back-up-and-restore.md").read_text()
    [line] = [line for line in text.splitlines() if line.startswith(beginning) and any(word in line for word in places)]
    for written, place in places.items():
        line = line.replace(written, str(place))
    subprocess.run(line.split(), check=True, timeout=300)


# --- the machine reboots --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["at rest", "in the middle of a deploy"])
def test_the_machine_reboots(stage: Stage, moment: str) -> None:
    """
    Every process, namespace, mount and group is gone at once, the disk stays: `up` brings all apps back by itself, in
    the version that they had, a deployment that was under way comes to its end, and nothing is there twice.
    """
    cloud, page, deployment = stage.cloud, stage.page, None
    before, made = stage.settled(), shape(cloud)
    for _ in range(5):
        made &= shape(cloud)  # Without what is there for a moment: a runtime that is asked for a state, say.
    if moment != "at rest":
        page = f"deployed through a power cut {time.monotonic_ns()}"
        stage.arms.arm("delay:300", "agent.start.attached")
        deployment = stage.api.deploy(stage.app, small(stage.www.push(page)))
        eventually("a start is under way", lambda: stage.arms.is_taken("agent.start.attached"))
    cut_the_power(cloud)
    assert inventory(cloud.short, cloud.data) == []
    cloud.start()
    eventually("the app answers", lambda: cloud.get(stage.app).status == 200)
    if deployment is not None:
        ended = stage.api.until_ended(stage.app, deployment)
        assert ended.state is DeploymentState.SUCCEEDED, f"{ended.reason} {ended.last_lines}"
    stage.page = page
    after = stage.settled()
    if deployment is None:
        assert {(i.id, i.release) for i in after} == {(i.id, i.release) for i in before}
    eventually("as many things are there as before", lambda: has_shape(cloud, made))
    eventually("all is well", lambda: is_well(cloud))


def shape(cloud: RunningCloud) -> Counter[str]:
    """What the cloud holds on the machine, without the names that differ from one instance to another."""
    held = Counter(
        re.sub(r"[a-z2-7]{20}", "ID", line) if not line.startswith("process") else line.split()[2]
        for line in inventory(cloud.short, cloud.data)
    )
    for line in held:
        # runsc's own: of several first sandboxes that begin at once each mounts it, one on the other.
        if line.endswith("/null-netns"):
            held[line] = 1
    return held


def has_shape(cloud: RunningCloud, made: Counter[str]) -> bool:
    now = shape(cloud)
    assert now == made, f"more: {now - made}; less: {made - now}"
    return True


# --- PostgreSQL -----------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_postgresql_comes_goes_hangs_and_stutters(
    cloud: RunningCloud, arms: Arms, registry: Registry, tmp_path: Path
) -> None:
    """
    A cloud that starts before its database says what it waits for and comes up by itself. While the database is away,
    apps and proxy don't notice, and the API says 503 and when to try again; nobody asks in a storm.
    """
    with running_postgres() as postgres:
        postgres.sql("CREATE DATABASE swg")
        postgres.stop()
        mine = RunningCloud(tmp_path / "cloud", options=("--database-url", postgres.url("swg")))
        with started_before(postgres, mine), on_stage(mine, arms, Www(registry, tmp_path)) as stage:
            for hurt, heal in (
                (postgres.stop, postgres.start),
                (postgres.freeze, postgres.thaw),
            ):
                with stage.load() as load:
                    hurt()
                    rounds = len(failed_rounds(mine))
                    refused = [mine.ask("GET", "/v1/apps"), mine.ask("POST", "/v1/apps", {"name": "asked"})]
                    assert [answer.status for answer in refused] == [503, 503]
                    assert all(int(answer.headers["Retry-After"]) > 0 for answer in refused)
                    mine.kill("server")  # It finds no database when it is back.
                    sent = load.sent
                    eventually("requests flow on", lambda sent=sent, load=load: load.sent > sent + 200)
                    assert len(failed_rounds(mine)) - rounds < 60
                    heal()
                    eventually("the cloud is well again", mine.is_up)
                assert load.failures == []
                stage.deploy()
            with stage.load() as load, stuttering(postgres):
                stage.deploy()
            assert load.failures == []
            stage.settled()


@contextlib.contextmanager
def started_before(postgres: Postgres, cloud: RunningCloud) -> Iterator[RunningCloud]:
    """A cloud whose database starts when `up` has said that it waits for it."""

    def start_when_asked_for() -> None:
        eventually("it says what it waits for", lambda: "The database doesn't answer" in cloud.up_log.read_text())
        postgres.start()

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        started = pool.submit(start_when_asked_for)
        with cloud_for_a_while(cloud):
            started.result()
            yield cloud


def failed_rounds(cloud: RunningCloud) -> list[str]:
    """How often a part of the server has tried in vain."""
    lines = (cloud.data / "logs" / "server.log").read_text().splitlines()
    return [line for line in lines if '"loop.round_failed"' in line or '"server.waits"' in line]


@contextlib.contextmanager
def stuttering(postgres: Postgres) -> Iterator[None]:
    """A database on a disk that hangs, again and again."""
    stop = threading.Event()

    def stutter() -> None:
        while not stop.wait(0.3):
            postgres.freeze()
            stop.wait(0.7)
            postgres.thaw()

    thread = threading.Thread(target=stutter)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        postgres.thaw()


# --- the clock ------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_the_clock_jumps(cloud: RunningCloud, arms: Arms, registry: Registry, tmp_path: Path) -> None:
    """
    An hour and a day forwards and back, under every process of the cloud: nothing is started again, no request fails,
    and a deployment that is under way is neither given up nor left waiting.
    """
    clock = tmp_path / "clock"
    clock.write_text("+0")
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    env = {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "SHELLWEGO_FAULTS_DIR": str(arms.directory),
    }
    mine = RunningCloud(tmp_path / "cloud", env=env)
    with cloud_for_a_while(mine), on_stage(mine, arms, Www(registry, tmp_path)) as stage:
        for offset in ("+1h", "-1d"):
            before = {i.id: (i.started_at, i.restarts) for i in stage.settled()}
            with stage.load() as load:
                clock.write_text(offset)
                heard = load.sent
                eventually("requests flow on", lambda heard=heard, load=load: load.sent > heard + 200)
                eventually("all is well", lambda: is_well(mine))
                assert {i.id: (i.started_at, i.restarts) for i in stage.settled()} == before, offset
                stage.deploy()
            assert load.failures == [], offset
        for offset in ("+1d", "-1h", "+0"):
            with stage.load() as load:
                arms.arm("delay:1", "agent.start.attached")
                page = f"deployed while it became {offset}"
                said = stage.api.deploy(stage.app, small(stage.www.push(page)))
                eventually("a start is under way", lambda: arms.is_taken("agent.start.attached"))
                clock.write_text(offset)
                ended = stage.api.until_ended(stage.app, said)
                assert ended.state is DeploymentState.SUCCEEDED, f"{offset}: {ended.reason} {ended.last_lines}"
                stage.page = page
                stage.settled()
            assert load.failures == [], offset
