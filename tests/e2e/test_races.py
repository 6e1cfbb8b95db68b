"""What happens when people don't wait for each other, or do the same thing again and again?

Two who deploy one app at once, a delete in the middle of a deploy, a scale in the middle of a rollback, fifty apps made
at once, two hundred deploys in a row: the end is what was asked for last, nobody who uses an app notices, nothing is
left behind, and what the cloud says of itself is what visitors see.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from shellwego.client import Cloud, Refused
from shellwego.core.apps import AppStatus
from shellwego.core.deployments import DeploymentState
from shellwego.core.instances import InstanceState
from shellwego.kit.load import Target, constant_load
from shellwego.protocol.public import Deployment, DeploymentCreate, Instance, ResourceAmounts
from tests.e2e.cloud import RunningCloud, eventually
from tests.e2e.faults import Api, Www, listed, nothing_else_left, small
from tests.images import busybox_layout
from tests.registry import running_registry

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

MANY = 50
DEPLOYS = int(os.environ.get("SHELLWEGO_DEPLOYS", "200"))
TINY = ResourceAmounts(memory_mib=64, cpu_millis=100, pids=32, disk_mib=16)


@dataclass(slots=True)
class Crowd:
    """A cloud and many hands. `image` shows the configuration's PAGE."""

    cloud: RunningCloud
    api: Api
    www: Www
    image: str

    def page(self, page: str) -> DeploymentCreate:
        return DeploymentCreate(image=self.image, config={"PAGE": page}, resources=TINY, grace_seconds=1.0)

    def deploy(self, app: str, page: str, **replicas: int) -> None:
        self.api.create(app)
        if replicas:
            self.api.scale(app, **replicas)
        said = self.api.deploy(app, self.page(page))
        assert self.api.until_ended(app, said).state is DeploymentState.SUCCEEDED

    def until(self, app: str, page: str, count: int) -> list[Instance]:
        """The app's instances once it is as it must be: as many, healthy, of the current release, and this page."""

        def is_so() -> list[Instance]:
            seen = self.api(lambda cloud: cloud.apps.get(app))
            instances = self.api.instances(app)
            assert [i.state for i in instances] == [InstanceState.HEALTHY] * count, instances
            assert {i.release for i in instances} == {seen.release}
            assert seen.status is AppStatus.RUNNING, seen
            assert self.cloud.get(app).body.strip() == page
            return instances

        found: list[Instance] = eventually(f"{count} instances of {app} say {page!r}", is_so)
        return found

    def deployments(self, app: str) -> list[Deployment]:
        """Oldest first."""
        return self.api(lambda cloud: listed(cloud.deployments.list(app)))[::-1]


@pytest.fixture(scope="module")
def crowd(cloud: RunningCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crowd]:
    directory = tmp_path_factory.mktemp("registry")
    with running_registry(directory) as registry:
        serve = "echo $PAGE > /srv/index.html; exec httpd -f -p 8080 -h /srv"
        layout = busybox_layout(directory / "page", cmd=("sh", "-c", serve), files={"/srv/index.html": "nothing yet"})
        api = Api(cloud)
        yield Crowd(cloud, api, Www(registry, directory), registry.push(layout, "page:1"))
        api.close()


@pytest.fixture(autouse=True)
def tidy(crowd: Crowd) -> Iterator[None]:
    """After each test every app of it goes, and nothing of any is left."""
    yield
    names = [app.name for app in crowd.api(lambda cloud: listed(cloud.apps.list()))]
    crowd.api.delete(*names)
    nothing_else_left(crowd.cloud, crowd.api)


def test_two_deploys_of_one_app_at_once(crowd: Crowd) -> None:
    """One of them took over from the other, nobody's wish was lost halfway, and visitors saw one or the other."""
    api, app = crowd.api, "two"
    crowd.deploy(app, "page 0", web=2)
    for number in range(1, 3):
        new = crowd.www.push(f"image {number}")

        async def both(cloud: Cloud, number: int = number, new: str = new) -> list[Deployment]:
            wishes = crowd.page(f"page {number}"), small(new)
            return await asyncio.gather(
                *(cloud.deployments.create(app, wish, idempotency_key=uuid.uuid4().hex) for wish in wishes)
            )

        with crowd.cloud.load(app) as load:
            paged, imaged = api(both)
            first, last = crowd.deployments(app)[-2:]
            assert {first.id, last.id} == {paged.id, imaged.id}
            assert api.until_ended(app, last).state is DeploymentState.SUCCEEDED
            assert api.deployment(app, first.id).state in {DeploymentState.SUPERSEDED, DeploymentState.SUCCEEDED}
            crowd.until(app, f"page {number}" if last.id == paged.id else f"image {number}", 2)
        assert load.failures == []
        assert {body.strip() for body in load.bodies} <= {
            page for n in (number - 1, number) for page in (f"page {n}", f"image {n}")
        }  # fmt: skip


@pytest.mark.parametrize(
    "moment",
    [
        "starting",
        "draining",
        pytest.param("queued", marks=pytest.mark.long),
        pytest.param("healthy", marks=pytest.mark.long),
    ],
)
def test_a_delete_during_a_deploy(crowd: Crowd, moment: str) -> None:
    """Whenever it comes, the app goes, and its name can be had again for something else."""
    api, app = crowd.api, "brief"
    crowd.deploy(app, "first", web=2)
    old = {i.id for i in api.instances(app)}
    said = api.deploy(app, small(crowd.www.push("second")))

    def has_come() -> bool:
        new = [i for i in api.instances(app) if i.id not in old]
        return {
            "queued": True,
            "starting": bool(new),
            "healthy": any(i.state is InstanceState.HEALTHY for i in new),
            "draining": len(old - {i.id for i in api.instances(app)}) > 0,
        }[moment] or api.deployment(app, said.id).state.is_terminal

    eventually(moment, has_come)
    api(lambda cloud: cloud.apps.delete(app))
    with pytest.raises(Refused):
        api.deploy(app, small())
    eventually("it is gone", lambda: api(lambda cloud: cloud.apps.find(app)) is None)
    eventually("its name leads nowhere", lambda: crowd.cloud.get(app).status == 404)
    assert api.instances() == []
    nothing_else_left(crowd.cloud, api)
    crowd.deploy(app, "another life")
    crowd.until(app, "another life", 1)
    assert [d.state for d in crowd.deployments(app)] == [DeploymentState.SUCCEEDED]


@pytest.mark.parametrize("count", [4, pytest.param(1, marks=pytest.mark.long)])
def test_a_scale_during_a_rollback(crowd: Crowd, count: int) -> None:
    """Both are done: the old page, and as many instances as were asked for last."""
    api, app = crowd.api, f"swing{count}"
    crowd.deploy(app, "old", web=2)
    assert api.until_ended(app, api.deploy(app, crowd.page("new"))).state is DeploymentState.SUCCEEDED
    crowd.until(app, "new", 2)
    with crowd.cloud.load(app) as load:
        back = api.deploy(app, DeploymentCreate(release="previous"))
        before = {i.id for i in api.instances(app)}
        api.scale(app, web=3)
        eventually("it has begun", lambda: {i.id for i in api.instances(app)} - before)
        api.scale(app, web=count)
        assert api.until_ended(app, back).state is DeploymentState.SUCCEEDED
        crowd.until(app, "old", count)
    assert load.failures == []
    assert api(lambda cloud: cloud.apps.get(app)).release == "v1"


@pytest.mark.long
def test_fifty_apps_at_once(crowd: Crowd) -> None:
    """Each gets an address, a page and an end of its own, and what the cloud says is what visitors see."""
    api, names = crowd.api, [f"one-of-many-{number}" for number in range(MANY)]

    async def make(cloud: Cloud, name: str) -> Deployment:
        await cloud.apps.create(name, idempotency_key=uuid.uuid4().hex)
        return await cloud.deployments.create(name, crowd.page(f"page of {name}"), idempotency_key=uuid.uuid4().hex)

    async def all_of_them(cloud: Cloud) -> list[Deployment]:
        return await asyncio.gather(*(make(cloud, name) for name in names))

    for name, said in zip(names, api(all_of_them), strict=True):
        ended = api.until_ended(name, said)
        assert ended.state is DeploymentState.SUCCEEDED, (name, ended.reason)
    apps = {app.name: app for app in api(lambda cloud: listed(cloud.apps.list()))}
    assert set(apps) == set(names)
    assert {app.status for app in apps.values()} == {AppStatus.RUNNING}
    instances = api.instances()
    assert sorted(i.app_name for i in instances) == sorted(names)
    assert len({i.address for i in instances}) == MANY, "each has an address of its own"
    assert {name: crowd.cloud.get(name).body.strip() for name in names} == {name: f"page of {name}" for name in names}
    api.delete(*names)
    assert api.instances() == []


@dataclass(frozen=True, slots=True)
class Footprint:
    """What the cloud's own processes and its data hold."""

    descriptors: int
    threads: int
    memory_kib: int
    disk_bytes: int
    files: int

    @classmethod
    def of(cls, cloud: RunningCloud) -> Footprint:
        descriptors = threads = memory = 0
        for pid in (*cloud.pids("server"), *cloud.pids("agent"), *cloud.pids("edge")):
            descriptors += sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
            status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            threads += int(status["Threads"])
            memory += int(status["VmRSS"].split()[0])
        disk = files = 0
        for root, _, names in os.walk(cloud.data):
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    disk += os.lstat(f"{root}/{name}").st_blocks * 512
                    files += 1
        return cls(descriptors, threads, memory, disk, files)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_two_hundred_deploys_in_a_row(crowd: Crowd) -> None:
    """The cloud of somebody who deploys every commit doesn't fill up, and visitors see nothing of it."""
    api, app = crowd.api, "again"
    images = [crowd.www.push(f"image {number}") for number in range(3)]
    wishes = [*(small(image) for image in images), crowd.page("page one"), crowd.page("page two")]
    pages = ["image 0", "image 1", "image 2", "page one", "page two"]
    api.create(app)
    assert api.until_ended(app, api.deploy(app, wishes[0])).state is DeploymentState.SUCCEEDED
    seen: dict[int, Footprint] = {}
    host = {"Host": f"{app}.{crowd.cloud.domain}"}
    target = Target("127.0.0.1", crowd.cloud.http_port, "/", host)
    with constant_load(target, clients=2, pause_seconds=0.1) as load:
        for number in range(1, DEPLOYS + 1):
            ended = api.until_ended(app, api.deploy(app, wishes[number % len(wishes)]))
            assert ended.state is DeploymentState.SUCCEEDED, (number, ended)
            assert ended.release == f"v{number + 1}"
            if number in (DEPLOYS // 4, DEPLOYS):
                crowd.until(app, pages[number % len(pages)], 1)
                nothing_else_left(crowd.cloud, api)
                seen[number] = Footprint.of(crowd.cloud)
    assert load.failures == []
    assert {body.strip() for body in load.bodies} == set(pages)
    early, late = seen[DEPLOYS // 4], seen[DEPLOYS]
    assert late.descriptors <= early.descriptors + 20
    assert late.threads <= early.threads + 5
    assert late.memory_kib <= early.memory_kib * 1.5
    # Each deploy leaves its records in the database and a line here and there, not its files.
    assert late.disk_bytes <= early.disk_bytes + DEPLOYS * 64 * 1024
    assert late.files <= early.files + 100
