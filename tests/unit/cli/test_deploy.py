"""`deploy`: from a folder or an image to a URL, or to the reason why not."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import httpx
import pytest
from tests.unit.cli.command_line import CommandLine
from tests.unit.client.fake_cloud import NOW, problem

from shellwego.cli.deploy_flags import FLAG_OF_KEY, Flags, flags_of
from shellwego.cli.errors import Failed
from shellwego.cli.following import check_succeeded, outcome
from shellwego.core.appfile_keys import FILE, leaf_paths
from shellwego.core.deployments import DeploymentState
from shellwego.core.errors import InvalidField
from shellwego.protocol.public import Deployment


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    site = tmp_path / "hello"
    site.mkdir()
    (site / "index.html").write_text("<h1>hello</h1>")
    return site


def test_a_folder_becomes_a_url(shellwego: CommandLine, folder: Path) -> None:
    ran = shellwego("deploy", str(folder), "--wait")
    assert (ran.code, ran.out) == (0, "http://hello.cloud.test\n")
    assert "Created the app hello." in ran.err
    assert "Sending 1 file, 14 B" in ran.err
    assert "  step 1\u2028of 1" in ran.err
    assert "1 of 1 instances healthy" in ran.err
    assert "is live in 4 s." in ran.err
    [body] = shellwego.cloud.bodies
    [packed] = shellwego.cloud.sources.values()
    assert body.source in shellwego.cloud.sources
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        assert archive.getnames() == ["index.html"]


@pytest.mark.parametrize("file", ["shellwego.toml", "Dockerfile", "package.json", "public/index.html"])
def test_an_apps_folder_need_not_be_named_by_who_is_in_it(
    shellwego: CommandLine, folder: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    (folder / "index.html").unlink()
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_text("")
    monkeypatch.chdir(folder)
    ran = shellwego("deploy", "--wait")
    assert (ran.code, ran.out) == (0, "http://hello.cloud.test\n")
    assert f"Deploying {folder}.\n" in ran.err


def test_an_image_becomes_a_url(shellwego: CommandLine) -> None:
    ran = shellwego("deploy", "--image", "nginx:1", "--name", "web", "--port", "80", "--wait")
    assert (ran.code, ran.out) == (0, "http://web.cloud.test\n")
    assert (shellwego.cloud.bodies[0].image, shellwego.cloud.bodies[0].port) == ("nginx:1", 80)


def test_a_failed_deployment_fails_and_says_why(shellwego: CommandLine, folder: Path) -> None:
    shellwego.cloud.add_app("hello", release="v3")
    shellwego.cloud.outcome = DeploymentState.FAILED
    ran = shellwego("deploy", str(folder), "--wait")
    assert (ran.code, ran.out) == (1, "")
    assert "The deployment of hello failed: exited with status 3" in ran.err
    assert "Last lines of its log:\n    Traceback\n    KeyError: 'X'\n" in ran.err  # without the escape sequence
    assert "v3 goes on serving." in ran.err
    assert "shellwego logs hello" in ran.err


def test_a_first_deployment_that_fails_says_what_is_left_and_how_to_be_rid_of_it(
    shellwego: CommandLine, folder: Path
) -> None:
    shellwego.cloud.outcome = DeploymentState.FAILED
    ran = shellwego("deploy", str(folder), "--wait")
    assert "nothing serves. Mend it and deploy again." in ran.err
    assert "shellwego apps delete hello" in ran.err
    assert "hello" in shellwego.cloud.apps


def test_where_nothing_could_run_no_log_is_spoken_of() -> None:
    facts = {"id": "dep_a", "app": "app_a", "kind": "deploy", "release": "v2", "created_at": NOW}
    facts |= {"state": "failed", "reason": "Needs 900 GiB.", "code": "no_capacity"}
    with pytest.raises(Failed) as failed:
        check_succeeded(Deployment.model_validate(facts), "hello")
    assert failed.value.next_steps[0] == "shellwego nodes list"


@pytest.mark.parametrize(
    ("kind", "previous", "said"),
    [
        ("deploy", "v1", "hello v2 is live in 4 s."),
        ("deploy", "v2", "hello v2 runs exactly this already. Nothing was restarted."),
        ("restart", "v2", "hello v2 is live in 4 s."),
    ],
)
def test_who_changed_nothing_hears_that_nothing_was_restarted(kind: str, previous: str, said: str) -> None:
    ended = Deployment(
        id="dep_1", app="app_1", kind=kind, state="succeeded", release="v2", previous_release=previous, created_at=NOW
    )
    assert outcome(ended, "hello", took=" in 4 s") == said


def test_a_deployment_that_is_refused_leaves_no_empty_app(shellwego: CommandLine, folder: Path) -> None:
    refusal = problem(422, "invalid_field", "image: 'x y' is not an image reference.")
    wire = [*[lambda _: None] * 2, lambda _: refusal]  # looked for, made, refused
    shellwego.cloud.faults = list(wire)
    ran = shellwego("deploy", "--image", "x y", "-n", "web", "--wait")
    assert ran.code == 2
    assert "Removed the app web again" in ran.err
    assert shellwego.cloud.apps == {}
    # One that was there before is nobody's leftover.
    shellwego.cloud.add_app("web")
    shellwego.cloud.faults = [lambda _: None, lambda _: refusal]
    assert shellwego("deploy", "--image", "x y", "-n", "web", "--wait").code == 2
    assert "web" in shellwego.cloud.apps


def test_a_build_that_fails_does_not_say_everything_twice(shellwego: CommandLine, folder: Path) -> None:
    shellwego.cloud.outcome, shellwego.cloud.fails_before_release = DeploymentState.FAILED, True
    ran = shellwego("deploy", str(folder), "--wait")
    assert "Last lines of its log" not in ran.err
    assert ran.err.count("step 1") == 1
    assert json.loads(shellwego("deploy", str(folder), "--wait", "-o", "json").out)["last_lines"]


def test_a_dockerfile_that_is_not_there_is_missed_before_anything_is_sent(shellwego: CommandLine, folder: Path) -> None:
    ran = shellwego("deploy", str(folder), "--dockerfile", "build/Dockerfile")
    assert ran.code == 2
    assert "(--dockerfile): there is no build/Dockerfile in" in ran.err
    assert shellwego.cloud.requests == []


def test_in_a_script_it_returns_at_once_unless_told_to_wait(shellwego: CommandLine, folder: Path) -> None:
    ran = shellwego("deploy", str(folder), "-o", "json")
    assert ran.code == 0
    assert json.loads(ran.out)["state"] == "queued"
    assert "shellwego deployments follow hello" in ran.err


def test_json_is_one_document_on_stdout_and_talk_stays_on_stderr(shellwego: CommandLine, folder: Path) -> None:
    ran = shellwego("deploy", str(folder), "--wait", "-o", "json")
    assert json.loads(ran.out)["state"] == "succeeded"
    shellwego.cloud.outcome = DeploymentState.FAILED
    ran = shellwego("deploy", str(folder), "--wait", "-o", "json")
    assert ran.code == 1
    assert json.loads(ran.out)["reason"] == "exited with status 3"


def test_a_lost_answer_does_not_deploy_twice(shellwego: CommandLine, folder: Path) -> None:
    shellwego.cloud.lost_answers = 3  # of the app, the source and the deployment
    ran = shellwego("deploy", str(folder), "--wait")
    assert ran.code == 0
    assert (len(shellwego.cloud.bodies), len(shellwego.cloud.sources)) == (1, 1)


def test_the_file_decides_and_flags_win(shellwego: CommandLine, folder: Path) -> None:
    (folder / "shellwego.toml").write_text(
        'name = "shop"\nport = 3000\n[health]\npath = "/up"\n[env]\nA = "file"\nB = "file"\n[scale]\nweb = 2\n'
    )
    flags = ["--port", "4000", "-e", "A=flag", "--health-retries", "7", "--scale", "3", "--memory", "1g"]
    assert shellwego("deploy", str(folder), "--wait", *flags).out == "http://shop.cloud.test\n"
    body = shellwego.cloud.bodies[0].model_dump(mode="json", exclude_unset=True)
    assert body.pop("source")
    assert body == {
        "port": 4000,
        "health": {"kind": "http", "path": "/up", "retries": 7},
        "config": {"A": "flag", "B": "file"},
        "replicas": {"web": 3},
        "resources": {"memory_mib": 1024},
    }


def test_a_slip_in_the_file_stops_it_before_anything_is_sent(shellwego: CommandLine, folder: Path) -> None:
    (folder / "shellwego.toml").write_text("\n[health]\npth = '/'\nretries = 0\n")
    ran = shellwego("deploy", str(folder), "--wait")
    assert ran.code == 2
    assert "shellwego.toml, line 3: health.pth: is not a key of [health]. Did you mean 'path'?" in ran.err
    assert "shellwego.toml, line 4: health.retries" in ran.err
    assert shellwego.cloud.requests == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "nothing in this folder says how to build it. Say what:"),
        (["x", "--image", "y"], "one of them"),
        (["--image", "y"], "Add --name NAME"),
        (["/nowhere/at-all"], "doesn't exist"),
        (["--image", "y", "-n", "Bad_Name"], "not an app name"),
        (["--image", "y", "-n", "a", "--memory", "lots"], "--memory: 'lots' is not a size"),
        (["--image", "y", "-n", "a", "--env", "PORT=1"], "PORT: is set by ShellWeGo"),
        (["--image", "y", "-n", "a", "--env", "X"], "'X' is not KEY=VALUE"),
        (["--image", "y", "-n", "a", "--scale", "many"], "not a number of instances"),
        (["--image", "y", "-n", "a", "--health-path", "/", "--health-tcp"], "can't stand beside --health-path"),
        (["--image", "y", "-n", "a", "--health-retries", "0"], "--health-retries: 0 is out of range"),
        (["--image", "y", "-n", "a", "--registry-user", "u"], "SHELLWEGO_REGISTRY_PASSWORD"),
    ],
)
def test_a_wrong_command_line_says_which_flag_and_sends_nothing(
    shellwego: CommandLine, words: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = shellwego("deploy", *words)
    assert ran.code == 2
    assert says in ran.err
    assert shellwego.cloud.requests == []


def test_a_folder_whose_name_cannot_be_an_apps_asks_for_one(shellwego: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "My Site").mkdir()
    (tmp_path / "My Site" / "index.html").write_text("x")
    ran = shellwego("deploy", str(tmp_path / "My Site"))
    assert ran.code == 2
    assert "Add --name NAME." in ran.err


def test_the_deployment_goes_on_when_the_watcher_leaves(shellwego: CommandLine, folder: Path) -> None:
    def interrupt(request: httpx.Request) -> None:
        if request.url.path.endswith("/events"):
            raise KeyboardInterrupt
        shellwego.cloud.faults.append(interrupt)

    shellwego.cloud.faults.append(interrupt)
    ran = shellwego("deploy", str(folder), "--wait")
    assert ran.code == 130
    assert "goes on in the background" in ran.err
    assert "shellwego deployments follow hello dep_" in ran.err
    assert "shellwego deployments cancel hello dep_" in ran.err


def test_every_key_of_the_file_is_a_flag() -> None:
    own = {path for path in leaf_paths(FILE) if path.startswith("processes.*.") and path != "processes.*.command"}
    assert set(FLAG_OF_KEY) == set(leaf_paths(FILE)) - own


def test_every_flag_that_a_key_names_is_there(shellwego: CommandLine) -> None:
    shown = shellwego("deploy", "--help").out
    for flag in FLAG_OF_KEY.values():
        assert flag in shown


def test_build_flags_reach_the_request() -> None:
    wish = flags_of(Flags(dockerfile="D", target="t", build_arg=["A=1"], build_secret=["S"], no_cache=True)).build
    assert wish is not None
    assert (wish.dockerfile, wish.target, wish.args, wish.secrets, wish.no_cache) == (
        "D",
        "t",
        {"A": "1"},
        ("S",),
        True,
    )


def test_a_process_without_a_command_is_refused() -> None:
    with pytest.raises(InvalidField, match="worker has no command"):
        flags_of(Flags(process=["worker="]))
