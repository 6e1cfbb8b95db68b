"""How is a program built from a pinned Go module?

Three rules. The module's zip has the hash that we wrote down. What it is built from has the hashes that its own go.sum
wrote down. And a program appears in the cache whole, by one rename, after it has shown that it starts.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from shellwego.core.errors import EngineMissing
from shellwego.drivers.engines.catalogue import GO_WHEEL, PROGRAM_DIRECTORIES, Engine, GoModule, Version
from shellwego.kit.commands import Command, CommandFailed, run_command
from shellwego.kit.faults import fault_point, reach
from shellwego.kit.files import sync_directory

DOWNLOADED = fault_point("engines.install.downloaded")
BUILT = fault_point("engines.install.built")

_DOWNLOAD_SECONDS = 900.0
_BUILD_SECONDS = 3600.0
_ANY_PROXY_FAILURES = 3


def go_environment(workshop: Path, inherited: Mapping[str, str]) -> dict[str, str]:
    """
    The user's own settings (proxies, certificates) with ours on top. Caches lie in the workshop, so an interrupted
    build goes on where it was, and nothing is left in a home directory afterwards.
    """
    kept = {name: value for name, value in inherited.items() if name not in {"GOROOT", "GOBIN", "GOOS", "GOARCH"}}
    return kept | {
        "CGO_ENABLED": "0",  # gVisor starts itself in an empty chroot, where there is no dynamic loader.
        "GOFLAGS": "-modcacherw -mod=readonly -trimpath -buildvcs=false",
        "GOSUMDB": "off",  # Our pin and the module's go.sum say more, and need nobody to be reachable.
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
        "GOPATH": str(workshop / "path"),
        "GOMODCACHE": str(workshop / "modules"),
        "GOCACHE": str(workshop / "objects"),
    }


def download_command(go: Path, module: GoModule) -> Command:
    return (str(go), "mod", "download", "-json", f"{module.path}@{module.version}")


def build_command(go: Path, module: GoModule, output: Path) -> Command:
    return (str(go), "build", "-ldflags", module.linker_flags, "-o", f"{output}/", *module.packages)


def wheel_command(requirements: Path, target: Path) -> Command:
    """pip where there is one (a virtual environment of Python's own has it), else uv."""
    options = ("--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:", "--target", str(target))
    source = ("-r", str(requirements))
    if find_spec("pip") is not None:
        return (sys.executable, "-m", "pip", "install", "--disable-pip-version-check", *options, *source)
    beside = Path(sys.executable).with_name("uv")
    return (str(beside) if beside.exists() else "uv", "pip", "install", *options, *source)


def parse_go_version(said: str) -> Version | None:
    """`go version go1.26.8 linux/amd64`"""
    found = re.search(r"\bgo(\d+(?:\.\d+)+)", said)
    return tuple(int(part) for part in found[1].split(".")) if found else None


async def find_go(needed: Version) -> Path | None:
    """A Go on this machine that is new enough."""
    directories = (os.environ.get("PATH", ""), *PROGRAM_DIRECTORIES, "/usr/local/go/bin")
    found = shutil.which("go", path=os.pathsep.join(directories))
    if found is None:
        return None
    said = await run_command((found, "version"), env={**os.environ, "GOTOOLCHAIN": "local"}, check=False)
    version = parse_go_version(said.stdout)
    return Path(found) if version is not None and version >= needed else None


async def ensure_go_wheel(workshop: Path) -> Path:
    """The toolchain of the wheel, unpacked in the workshop."""
    target = workshop / "toolchain"
    go = target / "go" / "bin" / "go"
    if not go.exists():
        half = workshop / "toolchain.half"
        shutil.rmtree(half, ignore_errors=True)
        requirements = workshop / "toolchain.txt"
        requirements.write_text(GO_WHEEL + "\n")
        await run_command(wheel_command(requirements, half), timeout_seconds=_DOWNLOAD_SECONDS)
        shutil.rmtree(target, ignore_errors=True)
        half.rename(target)
    go.chmod(0o755)
    return go


async def build(engine: Engine, module: GoModule, go: Path, *, directory: Path, workshop: Path) -> Path:
    """Build the engine's programs into `directory/ENGINE/VERSION/bin`; the folder. Raises EngineMissing."""
    environment = go_environment(workshop, os.environ)
    source = await _download(engine, module, go, workshop, environment)
    await reach(DOWNLOADED)
    half = workshop / f"{engine.name}.half"
    shutil.rmtree(half, ignore_errors=True)
    (half / "bin").mkdir(parents=True)
    try:
        await _run(build_command(go, module, half / "bin"), environment, cwd=source, seconds=_BUILD_SECONDS)
        for program in engine.programs:
            await run_command((str(half / "bin" / program), *engine.version_arguments), cwd=half)
    except CommandFailed as error:
        raise EngineMissing(engine.name, f"can't be built: {error}") from error
    origin = {"module": module.path, "version": module.version, "sum": module.sum}
    (half / "origin.json").write_text(json.dumps(origin, indent=2) + "\n")
    _sync(half)
    await reach(BUILT)
    home = directory / engine.name / engine.pinned
    home.parent.mkdir(parents=True, exist_ok=True)
    if home.exists():  # Somebody took programs out of it.
        shutil.rmtree(home)
    half.rename(home)
    sync_directory(home.parent)
    return home


async def _download(engine: Engine, module: GoModule, go: Path, workshop: Path, environment: Mapping[str, str]) -> Path:
    try:
        said = await _run(download_command(go, module), environment, cwd=workshop, seconds=_DOWNLOAD_SECONDS)
        answer = json.loads(said)
    except (CommandFailed, ValueError) as error:
        raise EngineMissing(engine.name, f"its source can't be downloaded: {error}") from error
    if answer.get("Sum") != module.sum:
        raise EngineMissing(
            engine.name,
            f"the source of {module.path}@{module.version} has the hash {answer.get('Sum')}, not {module.sum}. "
            "It was changed on its way, so nothing was built.",
        )
    return Path(answer["Dir"])


async def _run(command: Command, environment: Mapping[str, str], *, cwd: Path, seconds: float) -> str:
    """A module proxy that fails once is asked again; what was downloaded stays."""
    for attempt in range(1, _ANY_PROXY_FAILURES + 1):
        try:
            return (await run_command(command, env=environment, cwd=cwd, timeout_seconds=seconds)).stdout
        except CommandFailed as error:
            network = re.search(r"proxy|dial tcp|timeout|connection|TLS|EOF|\b5\d\d\b", error.stderr)
            if error.returncode is None or network is None or attempt == _ANY_PROXY_FAILURES:
                raise
    raise AssertionError("unreachable")


def _sync(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
