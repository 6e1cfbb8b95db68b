"""Whatever is killed, apps keep answering, and the next command tells the truth."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from shellwego.client import Cloud
from shellwego.client.logs import LogQuery
from shellwego.protocol.public import LogEntry
from tests.e2e.cloud import RunningCloud, eventually
from tests.e2e.conftest import EXAMPLES
from tests.e2e.faults import Api
from tests.images import busybox_layout
from tests.registry import running_registry

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]


def test_killed_processes(cloud: RunningCloud, app: str) -> None:
    """SIGKILL to server, agent, edge, and all three at once: no request fails, and all is well again by itself."""
    cloud.do("deploy", str(EXAMPLES / "node"), "--name", app, "--wait")
    cloud.do("scale", app, "web=2", "--wait")
    before = {i["id"]: i["started_at"] for i in cloud.json("instances", "list", app)}
    for names in (("server",), ("agent",), ("edge",), ("server", "agent", "edge")):
        old = {pid for name in names for pid in cloud.pids(name)}
        with cloud.load(app) as load:
            eventually("requests flow", lambda load=load: load.sent > 10)
            cloud.kill(*names)
            eventually(
                f"{names} are back",
                lambda names=names, old=old: all(set(cloud.pids(name)) - old for name in names) and cloud.is_up(),
            )
            sent = load.sent
            eventually("requests flow on", lambda load=load, sent=sent: load.sent > sent + 50)
        assert load.failures == [], f"after SIGKILL of {names}"
        after = {i["id"]: i["started_at"] for i in cloud.json("instances", "list", app)}
        assert after == before, "nothing was started again"


COUNT = "i=0; while true; do i=$((i+1)); echo line $i; usleep 20000; done & exec httpd -f -p 8080"


@pytest.mark.long
def test_a_followed_log_goes_on_through_kills(cloud: RunningCloud, app: str, tmp_path: Path) -> None:
    """Whoever reads a log while the cloud is upgraded reads each line of each instance, and reads it once."""
    with running_registry(tmp_path) as registry:
        image = registry.push(busybox_layout(tmp_path / "count", cmd=("sh", "-c", COUNT)), "count:1")
        cloud.do("deploy", "--image", image, "--name", app, "--scale", "web=2", "--wait")
    entries: list[LogEntry] = []

    async def follow(client: Cloud) -> None:
        async for entry in client.logs.follow(app, LogQuery(tail=10)):
            entries.append(entry)  # noqa: PERF401 - read while it grows

    async def read_through_kills(client: Cloud) -> None:
        following = asyncio.ensure_future(follow(client))
        for names in (("server",), ("agent",), ("server", "agent"), ("server",), ()):
            read = len(entries)
            fact = "more lines come", lambda read=read: following.done() or len(entries) > read + 200
            await asyncio.to_thread(eventually, *fact)
            await asyncio.to_thread(cloud.kill, *names)
        following.cancel()
        with pytest.raises(asyncio.CancelledError):
            await following

    with contextlib.closing(Api(cloud)) as api:
        api(read_through_kills)
    ids = {entry.instance for entry in entries}
    assert len(ids) == 2
    for id in ids:
        told = [int(entry.text.split()[1]) for entry in entries if entry.instance == id]
        assert told == list(range(told[0], told[0] + len(told)))


def test_killed_proxy(cloud: RunningCloud, app: str) -> None:
    """HAProxy gone: what it had in its hands is lost, everybody else waits a moment and is served."""
    cloud.do("deploy", str(EXAMPLES / "node"), "--name", app, "--wait")
    cloud.kill("haproxy")
    assert cloud.get(app, timeout=30).status == 200


def test_killed_instance(cloud: RunningCloud, app: str) -> None:
    """A crash is seen, told and mended."""
    cloud.do("deploy", str(EXAMPLES / "flask"), "--name", app, "--wait")
    cloud.run("exec", app, "--", "sh", "-c", "kill -9 1; kill -9 -1")

    def restarted() -> bool:
        [instance] = cloud.json("instances", "list", app)
        return instance["state"] == "healthy" and instance["restarts"] >= 1

    eventually("it runs again and says so", restarted)
    assert cloud.get(app).status == 200


def test_everything_killed_and_up_again(cloud: RunningCloud, app: str) -> None:
    """Also the supervisor: apps go on being served, and the next `up` adopts them without a restart."""
    cloud.do("deploy", str(EXAMPLES / "node"), "--name", app, "--wait")
    [before] = cloud.json("instances", "list", app)
    with cloud.load(app) as load:
        eventually("requests flow", lambda: load.sent > 10)
        cloud.kill("up", "server", "agent", "edge")
        assert cloud.process is not None
        cloud.process.wait(timeout=30)
        sent = load.sent
        eventually("requests flow without us", lambda: load.sent > sent + 50)
        cloud.start()
    assert load.failures == []
    [after] = cloud.json("instances", "list", app)
    assert (after["id"], after["started_at"]) == (before["id"], before["started_at"])


def test_a_stopped_cloud_brings_its_apps_back(cloud: RunningCloud, app: str) -> None:
    """Ctrl-C, then `up`: what was deployed answers again without a command. The same happens after a reboot."""
    cloud.do("deploy", str(EXAMPLES / "flask"), "--name", app, "--wait")
    assert cloud.stop() == 0
    cloud.start()
    eventually("the app answers again", lambda: cloud.get(app).status == 200)
