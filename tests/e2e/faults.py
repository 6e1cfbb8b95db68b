"""Where can a cloud die, and in which story does a test kill it there?

The points are read from the code: every module of ours is imported, and what it declared is what there is. `STORIES`
says which story passes a point; a point without one fails `test_fault_points.py`, so a new step can't be forgotten.
`Stage` is a cloud with a busy app of three instances on it, on which the stories are played.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import itertools
import pkgutil
import random
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import shellwego
from shellwego.client import Cloud, Refused, TokenCredential, connect
from shellwego.core.deployments import DeploymentState
from shellwego.core.health import CheckKind
from shellwego.core.instances import InstanceState
from shellwego.kit.faults import declared_points
from shellwego.kit.load import Load, Target, constant_load
from shellwego.protocol.public import Deployment, DeploymentCreate, Health, Instance, ResourceAmounts
from tests.e2e.cloud import RunningCloud, eventually, instance_in
from tests.images import LAYER_TAR, Layer, busybox_layout, digest_of, tar_of, write_layout
from tests.leaks import inventory
from tests.registry import Registry

T = TypeVar("T")

PATIENCE_SECONDS = 400.0
"""A server that is killed nine times in a row, and takes half a minute to start where others want the CPU too."""

_AGENT = "tests/integration/test_agent_faults.py::test_killed_at_any_step_it_goes_on_where_it_was"
_EDGE = "tests/contract/test_edge.py::test_killed_at_any_step_of_a_change_the_edge_converges_and_nobody_notices"

STORIES = {
    "agent.": "deploy",
    "agent.end.": "illness",
    "agent.remove.": "deploy",
    "edge.": "deploy",
    "edge.apply.claim": "another app",
    "edge.apply.map": "another app",
    "edge.apply.unmap": "another app",
    "edge.apply.release": "another app",
    "edge.certificate.": "another app",
    "edge.proxy.": "start",
    "down.": "down",
    "images.blob.": "deploy",
    "images.import.": "build",
    "images.pull.": "deploy",
    "images.unpack.": "deploy",
    "network.attach.": "deploy",
    "network.detach.": "deploy",
    "network.node.": "start",
    "network.node.end_uplink": "down",
    "network.node.remove": "down",
    "runtime.": "deploy",
    "server.": "deploy",
    "server.bootstrap.": "start",
    "server.build.": "build",
    "server.build.resolved": "deploy",
    "server.sources.": "build",
    # These are reached by a test elsewhere, which fails when it doesn't reach one of them.
    "agent.exec.": _AGENT,
    "agent.image.collecting": _AGENT,
    "agent.log.": _AGENT,
    "agent.network.orphan_detached": _AGENT,
    "bootstrap.": "tests/unit/drivers/images/test_bootstrap.py::test_killed_at_any_step_it_goes_on",
    "builder.": (
        "tests/contract/test_builder_faults.py::test_a_server_killed_at_any_step_of_a_build_leaves_nothing_that_stays"
    ),
    "edge.apply.ready": _EDGE,
    "edge.apply.shutdown": (
        "tests/contract/test_edge.py::test_killed_before_it_cuts_off_who_lingers_the_edge_does_so_later"
    ),
    "edge.proxy.replaced": _EDGE,
    "engines.install.": "tests/unit/drivers/engines/test_install.py::test_killed_at_any_step_an_installation_goes_on",
    "engines.install.packages": (
        "tests/unit/drivers/engines/test_install.py::test_killed_while_packages_come_no_service_is_kept_off_for_ever"
    ),
    "images.garbage.": "tests/unit/drivers/images/test_store.py::test_a_crash_at_any_step_is_taken_up_again",
}
"""By the longest beginning of a point's name."""


def every_point() -> frozenset[str]:
    """Every fault point that any module of ours declares."""
    for module in pkgutil.walk_packages(shellwego.__path__, "shellwego."):
        if module.name != "shellwego.control.store.migrations.env":  # Alembic's alone: it runs when it is imported.
            importlib.import_module(module.name)
    return frozenset(declared_points())


def story_of(point: str) -> str | None:
    fitting = [beginning for beginning in STORIES if point.startswith(beginning)]
    return STORIES[max(fitting, key=len)] if fitting else None


def points_of(story: str) -> list[str]:
    return sorted(point for point in every_point() if story_of(point) == story)


@dataclass(frozen=True, slots=True)
class Arms:
    """The directory that a cloud's processes look into; see `shellwego.kit.faults`."""

    directory: Path

    def arm(self, action: str, *points: str) -> None:
        for point in points:
            (self.directory / f"{point}.taken").unlink(missing_ok=True)
            temporary = self.directory / f".{point}"
            temporary.write_text(action)
            temporary.rename(self.directory / point)

    def disarm(self) -> set[str]:
        """Which of the armed points were not reached."""
        left = {path.name for path in self.directory.iterdir() if path.suffix != ".taken" and path.name[0] != "."}
        for name in left:
            (self.directory / name).unlink(missing_ok=True)
        return left

    def is_taken(self, point: str) -> bool:
        return (self.directory / f"{point}.taken").exists()


class Api:
    """The client of people's programs, for tests that don't run in a loop: `api(lambda cloud: cloud.apps.get("a"))`."""

    def __init__(self, running: RunningCloud, *, patience_seconds: float = 120.0) -> None:
        self._runner = asyncio.Runner()
        self._stack = contextlib.AsyncExitStack()
        token = TokenCredential((running.data / "admin-token").read_text().strip())
        url = f"http://127.0.0.1:{running.api_port}"
        entering = self._stack.enter_async_context(connect(url, token, patience_seconds=patience_seconds))
        self.cloud: Cloud = self._runner.run(entering)
        self(lambda cloud: listed(cloud.nodes.list()))  # From now on a refused connection is a cloud that restarts.

    def __call__(self, act: Callable[[Cloud], Coroutine[Any, Any, T]]) -> T:
        return self._runner.run(act(self.cloud))

    def close(self) -> None:
        self._runner.run(self._stack.aclose())
        self._runner.close()

    def instances(self, app: str | None = None) -> list[Instance]:
        return self(lambda cloud: listed(cloud.instances.list(app)))

    def deployment(self, app: str, id: str) -> Deployment:
        return self(lambda cloud: cloud.deployments.get(app, id))

    def deploy(self, app: str, body: DeploymentCreate) -> Deployment:
        key = uuid.uuid4().hex
        return self(lambda cloud: cloud.deployments.create(app, body, idempotency_key=key))

    def until_ended(self, app: str, deployment: Deployment) -> Deployment:
        def ended() -> Deployment | None:
            seen = self.deployment(app, deployment.id)
            return seen if seen.state.is_terminal else None

        try:
            found: Deployment = eventually(f"deployment {deployment.id} ends", ended, seconds=PATIENCE_SECONDS)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.deployment(app, deployment.id)}\n{self.instances(app)}") from None
        return found

    def create(self, app: str) -> None:
        self(lambda cloud: cloud.apps.create(app, idempotency_key=uuid.uuid4().hex))

    def scale(self, app: str, **replicas: int) -> None:
        self(lambda cloud: cloud.apps.scale(app, replicas))

    def delete(self, *apps: str) -> None:
        for app in apps:
            with contextlib.suppress(Refused):
                self(lambda cloud, app=app: cloud.apps.delete(app))
        for app in apps:
            eventually(f"{app} is gone", lambda app=app: self(lambda cloud: cloud.apps.find(app)) is None)


async def listed(items: AsyncIterator[T]) -> list[T]:
    return [item async for item in items]


def nothing_else_left(cloud: RunningCloud, api: Api) -> None:
    """Wait until nothing on the machine belongs to an instance that should not be."""

    def look() -> bool:
        wanted = {i.id.split("_")[1] for i in api.instances()}
        lines = inventory(cloud.short, cloud.data)
        left = [line for line in lines if (name := instance_in(line)) is not None and name not in wanted]
        assert left == [], "\n".join(left)
        return True

    eventually("nothing is left of others", look)


@dataclass(slots=True)
class Www:
    """Tiny websites as images: busybox's httpd and one page."""

    registry: Registry
    directory: Path
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def push(self, page: str, name: str = "www") -> str:
        """The reference of a new image whose page says so."""
        number = next(self._numbers)
        serve = ("httpd", "-f", "-p", "8080", "-h", "/srv")
        layout = busybox_layout(self.directory / f"layout{number}", cmd=serve, files={"/srv/index.html": page})
        return self.registry.push(layout, f"{name}:{number}")

    def push_bytes(self, size: int) -> str:
        """The reference of an image that takes so much room."""
        number = next(self._numbers)
        tar = tar_of({"bin/noise": random.Random(number).randbytes(size)})
        layout = write_layout(
            self.directory / f"layout{number}", [Layer(LAYER_TAR, tar, digest_of(tar))], cmd=("/bin/noise",)
        )
        return self.registry.push(layout, f"noise:{number}")


def small(image: str | None = None, **more: Any) -> DeploymentCreate:
    """
    A deployment of one of those: memory for minutes of load under gVisor (64 MiB are not enough), and no long wait for
    a httpd that hears no signal as PID 1.
    """
    resources = ResourceAmounts(memory_mib=128, cpu_millis=500, pids=64, disk_mib=64)
    return DeploymentCreate(image=image, resources=resources, grace_seconds=1.0, **more)


@dataclass(slots=True)
class Stage:
    """A cloud, a way to kill it, and an app of three instances that somebody uses all the time."""

    cloud: RunningCloud
    api: Api
    arms: Arms
    www: Www
    app: str = "steady"
    page: str = "version 0"
    version: int = 0
    not_reached_at_start: set[str] = field(default_factory=set)

    def set_up(self) -> None:
        self.api.create(self.app)
        said = self.api.deploy(self.app, small(self.www.push(self.page), replicas={"web": 3}))
        assert self.api.until_ended(self.app, said).state is DeploymentState.SUCCEEDED

    @contextlib.contextmanager
    def load(self, *, clients: int = 3) -> Iterator[Load]:
        host = {"Host": f"{self.app}.{self.cloud.domain}"}
        target = Target("127.0.0.1", self.cloud.http_port, "/", host)
        with constant_load(target, clients=clients, pause_seconds=0.02) as load:
            eventually("requests flow", lambda: load.sent > 5)
            yield load
            sent = load.sent
            eventually("requests flow on", lambda: load.sent > sent + 20)

    # --- stories --------------------------------------------------------------------------------------------------

    def play(self, story: str) -> None:
        {
            "deploy": self.deploy,
            "another app": self.another_app,
            "illness": self.illness,
            "build": self.build,
        }[story]()

    def deploy(self) -> None:
        """A new image for the busy app: pull, start, change the routes, drain, stop."""
        self.version += 1
        page = f"version {self.version}"
        said = self.api.deploy(self.app, small(self.www.push(page)))
        ended = self.api.until_ended(self.app, said)
        assert ended.state is DeploymentState.SUCCEEDED, f"{ended.state}: {ended.reason} {ended.last_lines}"
        self.page = page
        assert {i.release for i in self.settled()} == {ended.release}

    def another_app(self) -> None:
        """An app comes, is scaled, stopped and started, and goes."""
        name = f"another-{uuid.uuid4().hex[:6]}"
        self.api.create(name)
        said = self.api.deploy(name, small(self.www.push(name)))
        ended = self.api.until_ended(name, said)
        assert ended.state is DeploymentState.SUCCEEDED, f"{ended.state}: {ended.reason} {ended.last_lines}"
        eventually("it answers", lambda: self.cloud.get(name).body == name)
        self.api(lambda cloud: cloud.apps.stop(name))
        eventually("it is stopped", lambda: self.api.instances(name) == [])
        self.api(lambda cloud: cloud.apps.start(name))
        self.api.scale(name, web=2)
        eventually("it answers again", lambda: self.cloud.get(name).body == name)
        self.api.delete(name)
        eventually("its name leads nowhere", lambda: self.cloud.get(name).status == 404)
        self.settled()

    def illness(self) -> None:
        """A program that runs and doesn't answer any more is ended and started again."""
        name = f"ill-{uuid.uuid4().hex[:6]}"
        serve = "httpd -f -p 8080 -h /srv & sleep 2; kill $!; sleep 1000"
        layout = busybox_layout(self.www.directory / name, cmd=("sh", "-c", serve), files={"/srv/index.html": "here"})
        check = Health(kind=CheckKind.TCP, interval_seconds=0.5, timeout_seconds=2, start_period_seconds=30, retries=1)
        self.api.create(name)
        self.api.deploy(name, small(self.www.registry.push(layout, f"{name}:1"), health=check))
        eventually("it was started again", lambda: any(i.restarts >= 1 for i in self.api.instances(name)))
        self.api.delete(name)
        self.settled()

    def build(self) -> None:
        """A folder becomes an image and answers."""
        name = f"built-{uuid.uuid4().hex[:6]}"
        source = self.www.directory / name
        source.mkdir()
        (source / "index.html").write_text(name)
        said = self.cloud.run("deploy", str(source), "--name", name, "--memory", "64m", "--wait")
        assert said.code == 0, said.err
        eventually("it answers", lambda: self.cloud.get(name).body == name)
        self.api.delete(name)
        self.settled()

    # --- what must hold afterwards --------------------------------------------------------------------------------

    def settled(self) -> list[Instance]:
        """Three healthy instances of the busy app, and nothing on the machine that belongs to no instance."""
        found = self.wait_for_three()
        nothing_else_left(self.cloud, self.api)
        assert self.cloud.get(self.app).body == self.page
        return found

    def wait_for_three(self) -> list[Instance]:
        def three() -> list[Instance] | None:
            seen = self.api.instances(self.app)
            good = len(seen) == 3 and all(i.state is InstanceState.HEALTHY for i in seen)
            return seen if good else None

        found: list[Instance] = eventually("three healthy instances", three)
        return found


@contextlib.contextmanager
def on_stage(cloud: RunningCloud, arms: Arms, www: Www) -> Iterator[Stage]:
    """The stage of a cloud, with the busy app on it."""
    api = Api(cloud, patience_seconds=PATIENCE_SECONDS)
    stage = Stage(cloud, api, arms, www)
    stage.set_up()
    yield stage
    api.close()
