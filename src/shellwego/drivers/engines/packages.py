"""How are Debian's packages installed without starting what is in them?

ShellWeGo runs its own HAProxy, registry and PostgreSQL, each cloud its own. What Debian would start beside them would
take their ports, so the packages come without their services.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from shellwego.core.errors import EngineMissing
from shellwego.kit.commands import Command, CommandFailed, run_command
from shellwego.kit.faults import fault_point, reach
from shellwego.kit.files import replace_file

PACKAGES = fault_point("engines.install.packages")

_APT_SECONDS = 1800.0
_POLICY = Path("/usr/sbin/policy-rc.d")
_POLICY_TEXT = "#!/bin/sh\n# Made by `shellwego engines install` for as long as it runs: starts no service.\nexit 101\n"
_SYSTEMD = Path("/run/systemd/system")
_UNITS = ("haproxy.service", "docker-registry.service", "postgresql.service")


def update_command() -> Command:
    return ("apt-get", "-q", "-o", "DPkg::Lock::Timeout=600", "update")


def install_command(packages: tuple[str, ...]) -> Command:
    return (
        "apt-get",
        "-q",
        "-y",
        "-o",
        "DPkg::Lock::Timeout=600",
        "-o",
        "Dpkg::Options::=--force-confold",
        "install",
        "--no-install-recommends",
        *packages,
    )


async def missing_packages(packages: tuple[str, ...]) -> tuple[str, ...]:
    """Those that dpkg doesn't have installed."""
    if not packages:
        return ()
    query = ("dpkg-query", "--show", "--showformat", "${Package} ${db:Status-Status}\n", *packages)
    said = await run_command(query, check=False)
    installed = {line.split()[0] for line in said.stdout.splitlines() if line.endswith(" installed")}
    return tuple(package for package in packages if package not in installed)


async def install_packages(packages: tuple[str, ...]) -> None:
    """Raises EngineMissing, with apt's own words, when they can't be installed."""
    if shutil.which("apt-get") is None:
        raise EngineMissing(
            packages[0], f"needs {' '.join(packages)} of your distribution; this one has no apt-get to install them."
        )
    if os.geteuid() != 0:
        raise EngineMissing(
            packages[0],
            f"installing Debian's packages ({' '.join(packages)}) takes root: sudo shellwego engines install.",
        )
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "NEEDRESTART_SUSPEND": "1"}
    await reach(PACKAGES)
    with _no_services_started():
        try:
            await run_command(update_command(), env=environment, timeout_seconds=_APT_SECONDS, check=False)
            await run_command(install_command(packages), env=environment, timeout_seconds=_APT_SECONDS)
        except CommandFailed as error:
            raise EngineMissing(packages[0], f"apt-get could not install {' '.join(packages)}: {error}") from error
    if _SYSTEMD.exists():
        # Enabled by their packages, they would start with the machine's next boot.
        await run_command(("systemctl", "disable", *_units_of(packages)), check=False) if _units_of(packages) else None


def _units_of(packages: tuple[str, ...]) -> tuple[str, ...]:
    """Units of packages that we bring, never of one that was there and serves its operator."""
    return tuple(unit for unit in _UNITS if any(p.startswith(unit.removesuffix(".service")) for p in packages))


@contextlib.contextmanager
def _no_services_started() -> Iterator[None]:
    """invoke-rc.d(8) asks this program before it starts anything; an operator's own is left as it is."""
    # One with our words was left by an installation that was killed. It would keep every service off for ever.
    if _POLICY.exists() and _POLICY.read_bytes() != _POLICY_TEXT.encode():
        yield
        return
    try:
        replace_file(_POLICY, _POLICY_TEXT.encode(), mode=0o755)
        yield
    finally:
        _POLICY.unlink(missing_ok=True)
