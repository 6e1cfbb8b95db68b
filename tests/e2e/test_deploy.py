"""From a folder or an image to an address that answers, and from one version to the next without anybody noticing."""

from __future__ import annotations

import json
import socket
import ssl
from pathlib import Path

import pytest

from tests.e2e.cloud import RunningCloud, eventually
from tests.e2e.conftest import EXAMPLES

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]


@pytest.mark.parametrize("example", ["flask", "node", "static", "dockerfile"])
def test_examples_answer_through_the_proxy(cloud: RunningCloud, example: str) -> None:
    """The README's first promise: point at a folder, get a URL."""
    name = f"ex-{example}"
    said = cloud.do("deploy", str(EXAMPLES / example), "--name", name, "--wait")
    try:
        answer = cloud.get(name)
        assert answer.status == 200, said.err
        instances = cloud.json("instances", "list", name)
        assert [i["state"] for i in instances] == ["healthy"]
        assert f"{name}.localhost" in said.out + said.err, "the URL is the first thing people look for"
    finally:
        cloud.do("apps", "delete", name, "--yes")


def test_the_same_app_over_tls(cloud: RunningCloud, app: str) -> None:
    cloud.do("deploy", str(EXAMPLES / "static"), "--name", app, "--wait")
    context = ssl.create_default_context(cafile=str(cloud.data / "edge" / "ca.pem"))
    with (
        socket.create_connection(("127.0.0.1", cloud.https_port), 10) as plain,
        context.wrap_socket(plain, server_hostname=f"{app}.localhost") as secure,
    ):
        secure.sendall(f"GET / HTTP/1.1\r\nHost: {app}.localhost\r\nConnection: close\r\n\r\n".encode())
        assert secure.recv(64).startswith(b"HTTP/1.1 200")


def test_a_new_version_of_three_instances_under_load(cloud: RunningCloud, app: str) -> None:
    """No failed request: what the peers promise and their users miss."""
    cloud.do("deploy", str(EXAMPLES / "flask"), "--name", app, "--wait")
    cloud.do("scale", app, "web=3", "--wait")
    with cloud.load(app) as load:
        eventually("requests flow", lambda: load.sent > 20)
        cloud.do("config", "set", app, "VERSION=two", "--wait")
        sent = load.sent
        eventually("requests flow on", lambda: load.sent > sent + 20)
    assert load.failures == []
    assert "two" in cloud.get(app).body
    instances = cloud.json("instances", "list", app)
    assert [i["state"] for i in instances].count("healthy") == 3
    assert {i["release"] for i in instances} == {cloud.json("apps", "get", app)["release"]}


def test_rollback_restores_image_and_configuration(cloud: RunningCloud, app: str, tmp_path: Path) -> None:
    first = tmp_path / "site"
    first.mkdir()
    (first / "index.html").write_text("first image")
    cloud.do("deploy", str(first), "--name", app, "--wait")
    cloud.do("config", "set", app, "COLOUR=red", "--wait")
    (first / "index.html").write_text("second image")
    cloud.do("deploy", str(first), "--name", app, "--wait")
    cloud.do("config", "set", app, "COLOUR=blue", "--wait")
    assert "second image" in cloud.get(app).body

    cloud.do("rollback", app, "v2", "--wait")
    assert "first image" in cloud.get(app).body
    assert cloud.json("config", "list", app)["COLOUR"] == "red"
    assert cloud.json("apps", "get", app)["release"] == "v2"


CANARY = "canary-0b7d22e1"
BROKEN = {
    "crashes": (
        "import os, sys\nsys.stdout.write('no database at ')\nsys.stdout.flush()\n"
        "print(os.environ['DATABASE_URL'], flush=True)\nsys.exit(3)\n",
        "no database at postgres://app:[secret DATABASE_URL]@db/app",
    ),
    "never-healthy": ("import time\nprint('I never listen', flush=True)\ntime.sleep(1000)\n", "I never listen"),
}


@pytest.mark.parametrize("kind", sorted(BROKEN))
def test_a_broken_version_leaves_the_old_one_serving_and_says_why(
    cloud: RunningCloud, app: str, tmp_path: Path, kind: str
) -> None:
    """A failed deploy must cost nothing but a message with the last log lines, and no secret that the app printed."""
    source = tmp_path / "app"
    source.mkdir()
    (source / "requirements.txt").write_text("")
    (source / "Procfile").write_text("web: python app.py\n")
    (source / "app.py").write_text(
        "import os\nfrom http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer\n"
        "ThreadingHTTPServer(('', int(os.environ['PORT'])), SimpleHTTPRequestHandler).serve_forever()\n"
    )
    cloud.do("deploy", str(source), "--name", app, "--wait", "--env", f"DATABASE_URL=postgres://app:{CANARY}@db/app")
    program, last_words = BROKEN[kind]
    (source / "app.py").write_text(program)
    with cloud.load(app) as load:
        said = cloud.run(
            "deploy", str(source), "--name", app, "--wait", "--health-start-period", "2", "--health-retries", "2",
            "--health-interval", "1", timeout=300,
        )  # fmt: skip
    assert said.code == 1
    assert last_words in said.err
    assert CANARY not in said.out + said.err + cloud.do("deployments", "list", app, "-o", "json").out
    assert files_with(CANARY, cloud) == []
    assert load.failures == []
    assert cloud.get(app).status == 200
    assert cloud.json("apps", "get", app)["release"] == "v1"


def files_with(text: str, cloud: RunningCloud) -> list[Path]:
    """Which files of the cloud's own hold it: its logs, the database, the state of agent and edge."""
    folders = ("logs/*", "server/**/*", "agent/*", "agent/records/*", "edge/**/*")
    own = [place for folder in folders for place in cloud.data.glob(folder) if place.is_file()]
    assert len(own) > 10
    return [place for place in own if text.encode() in place.read_bytes()]


def test_an_image_that_is_not_there_fails_and_names_it(cloud: RunningCloud, app: str) -> None:
    cloud.do("deploy", str(EXAMPLES / "static"), "--name", app, "--wait")
    said = cloud.run("deploy", "--image", "127.0.0.1:9/none/such:1", "--name", app, "--wait")
    assert said.code == 1
    assert "127.0.0.1:9" in said.err
    assert cloud.get(app).status == 200


def test_a_build_that_fails_shows_its_last_lines(cloud: RunningCloud, app: str, tmp_path: Path) -> None:
    cloud.do("deploy", str(EXAMPLES / "static"), "--name", app, "--wait")
    source = tmp_path / "bad"
    source.mkdir()
    (source / "Dockerfile").write_text("FROM debian:bookworm\nRUN echo so close && exit 7\n")
    said = cloud.run("deploy", str(source), "--name", app, "--wait")
    assert said.code == 1
    assert "so close" in said.err
    assert cloud.get(app).status == 200


def test_what_the_proxy_says_when_there_is_nothing(cloud: RunningCloud, app: str) -> None:
    assert cloud.get("nobody-here").status == 404
    cloud.do("deploy", str(EXAMPLES / "static"), "--name", app, "--wait")
    cloud.do("apps", "stop", app)
    eventually("the app is stopped", lambda: cloud.get(app).status == 503)
    assert "stopped" in cloud.get(app).body.lower()
    cloud.do("apps", "start", app)
    eventually("the app is back", lambda: cloud.get(app).status == 200)


def test_logs_exec_and_status(cloud: RunningCloud, app: str) -> None:
    cloud.do("deploy", str(EXAMPLES / "flask"), "--name", app, "--wait")
    cloud.get(app, "/seen-in-the-log")
    assert "uid=" in cloud.do("exec", app, "--", "id").out
    assert cloud.run("exec", app, "--", "sh", "-c", "exit 42").code == 42
    assert cloud.do("exec", app, "--", "cat", stdin=b"through the pipe").out == "through the pipe"
    eventually("lines in the log", lambda: cloud.do("logs", app, "--tail", "50").out)
    status = cloud.json("status")
    assert status["instances"]["healthy"] >= 1
    assert json.dumps(status)
