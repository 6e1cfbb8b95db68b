"""From inside a build step: the host, the apps and the other builds are out of reach, and what is told stays told."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import secrets
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shellwego.control.controllers.builds import ATTEMPTS
from tests.e2e.cloud import PATIENCE_SECONDS, RunningCloud, eventually, shellwego
from tests.e2e.conftest import cloud_for_a_while
from tests.e2e.ears import Ears, host_addresses, listen_where_no_tenant_may_come
from tests.e2e.inside import SOURCE, Findings, call_api, unnoticed
from tests.leaks import inventory

pytestmark = [pytest.mark.root, pytest.mark.timeout(600), pytest.mark.long]

MIB = 1 << 20
BUILD_SECONDS, DISK_MIB, CACHE_MIB = 60, 300, 100
SECRET = "correct-horse-battery-staple-4711"
SMALL = "FROM debian:bookworm\nRUN echo built\nCMD sleep infinity\n"
ENDLESS = "FROM debian:bookworm\nRUN echo for ever; while true; do sleep 1; done\n"
PROBES = """FROM python:3.11-slim
USER root
COPY . /attacker
RUN cd /attacker && python probes.py descriptors processes paths mounts status sockets routes readable reach unix \
    < given.json > /found.json
CMD ["sleep", "infinity"]
"""

End = Callable[[], tuple[str, int]]


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCloud]:
    limits = ("--build-timeout", str(BUILD_SECONDS), "--build-memory", "1g", "--build-disk", f"{DISK_MIB}m",
              "--build-cache", f"{CACHE_MIB}m")  # fmt: skip
    with cloud_for_a_while(RunningCloud(tmp_path_factory.mktemp("e2e") / "cloud", options=limits)) as running:
        yield running


@contextlib.contextmanager
def deploying(cloud: RunningCloud, folder: Path, name: str, *, token: str | None = None) -> Iterator[End]:
    """A deployment that goes on meanwhile; what it yields waits for its end and gives its status and words."""
    process = subprocess.Popen(
        (*shellwego(), "deploy", str(folder), "--name", name, "--health-none", "--wait"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={
            **os.environ,
            "SHELLWEGO_URL": f"http://127.0.0.1:{cloud.api_port}",
            "SHELLWEGO_TOKEN": token or (cloud.data / "admin-token").read_text().strip(),
            "NO_COLOR": "1",
        },
    )
    with process:
        try:
            yield lambda: (process.communicate(timeout=PATIENCE_SECONDS)[0], process.returncode)
        finally:
            process.kill()


def source(folder: Path, dockerfile: str, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "Dockerfile").write_text(dockerfile)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content)
    return folder


def build_state(cloud: RunningCloud, app: str) -> str:
    return next((str(one["state"]) for one in call_api(cloud, f"/v1/apps/{app}/deployments")["items"]), "")


@pytest.fixture(scope="module")
def stranger(cloud: RunningCloud) -> str:
    """A token of somebody in another organisation."""
    cloud.do("organisations", "create", "strangers")
    made = cloud.json("users", "create", "ann@example.org", "--organisation", "strangers")
    connection = http.client.HTTPConnection("127.0.0.1", cloud.api_port, timeout=60)
    try:
        body = json.dumps({"email": "ann@example.org", "password": made["password"]})
        connection.request("POST", "/v1/auth/login", body, {"Content-Type": "application/json"})
        return str(json.loads(connection.getresponse().read())["access_token"])
    finally:
        connection.close()


@pytest.fixture(scope="module")
def endless(cloud: RunningCloud, stranger: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[End]:
    """A stranger's build that never ends. It is under way while others build here."""
    with deploying(
        cloud, source(tmp_path_factory.mktemp("endless") / "source", ENDLESS), "endless", token=stranger
    ) as end:
        yield end


@pytest.fixture(scope="module")
def findings(
    cloud: RunningCloud, victim: str, endless: End, ears: Ears, tmp_path_factory: pytest.TempPathFactory
) -> Findings:
    """What a step found, read from the image that it became."""
    ports = listen_where_no_tenant_may_come(cloud, ears)
    abstract = f"@shellwego-test-{secrets.token_hex(4)}"
    ears.listen_unix("an abstract name", "\0" + abstract[1:])
    ears.heard.clear()

    address = call_api(cloud, f"/v1/instances?app={victim}")["items"][0]["address"]
    gateway = address.rsplit(".", 2)[0] + ".0.1"
    platform = [cloud.api_port, cloud.http_port, cloud.https_port, *ports.values()]
    near = [gateway, "10.0.2.2", "10.0.2.3", "10.0.2.100", "127.0.0.1", *host_addresses()]
    targets = [(there, port) for there in near for port in platform]
    targets += [(address, 8080), ("169.254.169.254", 80), ("168.63.129.16", 80), ("fd00:ec2::254", 80)]
    targets += [(f"::ffff:{there}", port) for there, port in targets if ":" not in there]
    run = Path("/run/shellwego", cloud.short)
    given = {
        "tcp": targets,
        "udp": targets,
        "seconds": 5,
        "unix": [*(str(path) for path in run.rglob("*") if path.is_socket()), abstract],
        "paths": [str(cloud.data), str(run), "/run/shellwego", "/run/netns", "/var/cache/shellwego"],
    }
    probes = {path.name.replace(".", "__"): path.read_text() for path in SOURCE.glob("*.py")}
    folder = source(tmp_path_factory.mktemp("probes") / "source", PROBES, **probes, given__json=json.dumps(given))
    with unnoticed(cloud, victim):
        cloud.do("deploy", str(folder), "--name", "prober", "--health-none", "--wait")
    found: Findings = json.loads(cloud.do("exec", "prober", "--", "cat", "/found.json").out)
    assert len(found["reach"]) == 2 * len(set(targets))
    return found


def test_a_step_reaches_no_app_no_host_and_no_metadata(findings: Findings, ears: Ears) -> None:
    assert {target: word for target, word in findings["reach"].items() if word.startswith("reached")} == {}
    assert set(findings["unix"].values()) <= {"ENOENT", "ECONNREFUSED", "ENAMETOOLONG"}
    assert ears.heard == []


def test_a_step_can_not_forge_packets_or_see_the_host(cloud: RunningCloud, findings: Findings) -> None:
    assert {name for name, word in findings["sockets"].items() if word == "ok"} == set()
    assert set(findings["routes"].values()) == {"EPERM"}
    assert findings["paths"] == {}
    assert findings["readable"].keys() <= {"/sys/fs/cgroup/memory/cgroup.procs"}, "which is gVisor's own"
    mounts = "\n".join(findings["mounts"].values())
    assert str(cloud.data) not in mounts
    assert "/run/shellwego" not in mounts
    effective = int(findings["status"]["CapEff"], 16)
    assert not effective & (1 << 12 | 1 << 13 | 1 << 16 | 1 << 17 | 1 << 19 | 1 << 21 | 1 << 27)
    others = [line for line in findings["processes"].values() if "probes.py" not in line]
    assert others == []


def test_links_in_the_source_lead_nowhere(cloud: RunningCloud, app: str, tmp_path: Path) -> None:
    """Neither in what is copied, nor where ShellWeGo itself reads the source, nor where BuildKit does."""
    with tempfile.NamedTemporaryFile("w", dir="/var/tmp", suffix=".host") as host:
        host.write("the host's own words")
        host.flush()
        folder = source(tmp_path / "source", "FROM debian:bookworm\nCOPY . /copied\nRUN cat /copied/link || true\n")
        (folder / "link").symlink_to(host.name)
        (folder / "up").symlink_to("../" * 20 + host.name.lstrip("/"))
        (folder / "folder").symlink_to("/var/tmp")
        said = cloud.do(
            "deploy", str(folder), "--name", app, "--process", "web=sleep infinity", "--health-none", "--wait"
        )
        assert "own words" not in said.out + said.err
        assert cloud.do("exec", app, "--", "readlink", "/copied/link").out.strip() == host.name
        assert cloud.run("exec", app, "--", "grep", "-r", "own words", "/copied").code == 1

        name = Path(host.name).name
        for dockerfile in (f"COPY folder/{name} /x", "COPY link /x", "COPY up /x", f"ADD folder/{name} /x"):
            source(folder, f"FROM debian:bookworm\n{dockerfile}\nRUN cat /x\n")
            said = cloud.run("deploy", str(folder), "--name", app, "--wait")
            assert said.code == 1
            assert "own words" not in said.out + said.err
        for special in ("Dockerfile", "requirements.txt", ".dockerignore", "Procfile"):
            source(folder, SMALL)
            (folder / special).unlink(missing_ok=True)
            (folder / special).symlink_to(host.name)
            said = cloud.run("deploy", str(folder), "--name", app, "--health-none", "--wait")
            assert "own words" not in said.out + said.err
            (folder / special).unlink()


def test_a_secret_is_kept(cloud: RunningCloud, app: str, tmp_path: Path) -> None:
    """Not shown as it is built, nor later, nor on any disk: not in a layer, a cache, a log or the database."""
    show = (
        "RUN --mount=type=secret,id=KEY cat /run/secrets/KEY; base64 /run/secrets/KEY; wc -c < /run/secrets/KEY > /size"
    )
    folder = source(tmp_path / "source", f"FROM debian:bookworm\n{show}\nCMD sleep infinity\n")
    options = ("--build-secret", "KEY", "--name", app, "--health-none", "--wait")
    told = cloud.run("deploy", str(folder), *options, env={"KEY": SECRET})
    assert told.code == 0, told.err
    assert cloud.do("exec", app, "--", "cat", "/size").out.strip() == str(len(SECRET))
    source(folder, f"FROM debian:bookworm\n{show}; exit 3\n")
    failed = cloud.run("deploy", str(folder), *options, env={"KEY": SECRET})
    assert failed.code == 1
    hidden = [SECRET, base64.b64encode(SECRET.encode()).decode().rstrip("=")]
    deployments = json.dumps(call_api(cloud, f"/v1/apps/{app}/deployments"))
    for text in (told.out, told.err, failed.out, failed.err, deployments):
        assert not any(word in text for word in hidden)
    places = [str(cloud.data), str(Path("/run/shellwego", cloud.short))]
    # The builder's file system gives freed blocks back with its next commit.
    eventually("it is on no disk", lambda: files_with(hidden, places) == "")


def test_a_build_that_never_ends_is_ended_at_its_limit(endless: End) -> None:
    """Waited for here, since the next test ends the server, and with it whatever is built."""
    said, code = endless()
    assert code == 1
    assert f"longer than {BUILD_SECONDS} s, the limit of a build" in said


def test_a_build_whose_server_dies_again_and_again_is_given_up_and_leaves_nothing(
    cloud: RunningCloud, victim: str, app: str, tmp_path: Path
) -> None:
    """Nobody builds after it: its step, its network and what it printed must go by themselves."""
    show = "RUN --mount=type=secret,id=KEY cat /run/secrets/KEY; echo; while true; do sleep 1; done"
    folder = source(tmp_path / "source", f"FROM debian:bookworm\n{show}\n")
    options = ("--build-secret", "KEY", "--name", app, "--health-none")
    with unnoticed(cloud, victim):
        cloud.do("deploy", str(folder), *options, env={"KEY": SECRET})
        [deployment] = call_api(cloud, f"/v1/apps/{app}/deployments")["items"]
        told = cloud.data / "server" / "builds" / f"{deployment['id']}.log"
        for n in range(1, ATTEMPTS + 1):
            eventually(f"it shows its secret, time {n}", lambda n=n: told.read_text().count("[secret KEY]") >= n)
            cloud.kill("server")
            eventually("the server is back", cloud.is_up)
        eventually("it is given up", lambda: build_state(cloud, app) == "failed")
        [deployment] = call_api(cloud, f"/v1/apps/{app}/deployments")["items"]
        assert "interrupted" in deployment["reason"]
        eventually("it has ended", lambda: not [line for line in inventory(cloud.short) if "build" in line])
        eventually("it is on no disk", lambda: files_with([SECRET], [str(cloud.data)]) == "")


def files_with(words: list[str], places: list[str]) -> str:
    """Every file, and file system in a file, that holds one of the words."""
    options = ("--recursive", "--binary-files=text", "--files-with-matches", "--devices=skip", "--fixed-strings")
    patterns = [argument for word in words for argument in ("-e", word)]
    return subprocess.run(
        ("grep", *options, *patterns, *places), stdout=subprocess.PIPE, text=True, timeout=300, check=False
    ).stdout


def test_a_cancelled_build_ends_and_the_next_goes_on(
    cloud: RunningCloud, victim: str, app: str, tmp_path: Path
) -> None:
    with (
        unnoticed(cloud, victim),
        deploying(cloud, source(tmp_path / "endless", ENDLESS), app) as end,
    ):
        eventually("it is built", lambda: build_state(cloud, app) == "building")
        following = f"{app[:36]}-2"
        try:
            with deploying(cloud, source(tmp_path / "small", SMALL), following) as end_of_following:
                cloud.do("deployments", "cancel", app)
                said, code = end()
                assert code == 1
                assert "cancelled" in said
                said, code = end_of_following()
                assert code == 0, said
        finally:
            cloud.run("apps", "delete", following, "--yes")


def test_a_build_that_fills_its_disk_fails_alone(cloud: RunningCloud, victim: str, app: str, tmp_path: Path) -> None:
    fill = "FROM debian:bookworm\nRUN head -c 1G /dev/urandom > /fill\n"
    with unnoticed(cloud, victim):
        said = cloud.run("deploy", str(source(tmp_path / "fill", fill)), "--name", app, "--wait")
        assert said.code == 1
        assert "ran out of disk space in step" in said.err
        assert f"the limit of a build is {DISK_MIB} MiB" in said.err
        for storage in cloud.data.glob("builder/lanes/*/storage.ext4"):
            assert storage.stat().st_blocks * 512 <= (DISK_MIB + CACHE_MIB) * MIB
        cloud.do("deploy", str(source(tmp_path / "small", SMALL)), "--name", app, "--health-none", "--wait")


def test_a_build_that_floods_its_log_is_cut(cloud: RunningCloud, victim: str, app: str, tmp_path: Path) -> None:
    words = "yes flooding | head -c 20M; printf '\\033[2J\\033]0;renamed\\007shown\\n'; "
    words += "head -c 10M /dev/zero | tr '\\0' x; exit 7"
    folder = source(tmp_path / "flood", f"FROM debian:bookworm\nRUN {words}\n")
    with unnoticed(cloud, victim):
        said = cloud.run("deploy", str(folder), "--name", app, "--wait")
    assert said.code == 1
    assert "exit code: 7" in said.err
    assert len(said.err) < 16 * MIB
    assert "\033" not in said.out + said.err
    for log in cloud.data.glob("**/dep_*.log"):
        assert log.stat().st_size < 16 * MIB
