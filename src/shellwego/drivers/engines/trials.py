"""Does each engine really work on this machine?

A program that is there may still be refused by the kernel, by a container around us or by missing rights. Each trial
does, in a throw-away place, the smallest thing of the kind that a cloud does, and leaves nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import socket
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from shellwego.drivers.engines.catalogue import GVISOR
from shellwego.drivers.engines.places import Source, find_program
from shellwego.kit.commands import Command, CommandFailed, run_command
from shellwego.kit.disks import look_at_disk

_SECONDS = 60.0
_FREE_BYTES = 5 << 30
_NEEDED_BYTES = 1 << 30
_CGROUP_ROOT = Path("/sys/fs/cgroup")
_CONTROLLERS = ("memory", "cpu", "pids")
_DESCRIPTORS = 4096


class Verdict(StrEnum):
    OK = "ok"
    WARNING = "warning"  # a cloud runs, with a limit that is told
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Result:
    """What a trial found. `remedy` is what a person can do about it."""

    name: str
    verdict: Verdict
    said: str
    remedy: str = ""


Trial = Callable[[], Awaitable[Result]]

_NFT_RULES = """
table inet trial {
  set counted { type ipv4_addr; size 16; flags dynamic; }
  chain forward {
    type filter hook forward priority filter; policy drop;
    ct state new add @counted { ip saddr ct count over 10 } counter reject with icmp host-prohibited
    ct state established,related accept
  }
  chain source { type nat hook postrouting priority srcnat; policy accept; masquerade; }
}
table bridge trial {
  set ports { type ifname . ether_addr . ipv4_addr; }
  chain in { type filter hook prerouting priority -300; policy drop; iifname . ether saddr . ip saddr @ports accept; }
}
"""
_HAPROXY_CONFIGURATION = """
global
  maxconn 100
defaults
  mode http
  timeout connect 5s
  timeout client 5s
  timeout server 5s
frontend trial
  bind unix@/nowhere/trial.sock
  default_backend none
backend none
"""


def sandbox_configuration(platform_directories: tuple[str, ...]) -> dict[str, object]:
    """An OCI bundle that runs `true` from the host's own read-only system folders."""
    mounts: list[dict[str, object]] = [
        {"destination": "/proc", "source": "proc", "type": "proc"},
        {"destination": "/dev", "source": "tmpfs", "type": "tmpfs"},
    ]
    mounts += [
        {"destination": directory, "source": directory, "type": "bind", "options": ["rbind", "ro"]}
        for directory in platform_directories
    ]
    return {
        "ociVersion": "1.0.2",
        "process": {"args": ["/usr/bin/true"], "cwd": "/", "user": {"uid": 0, "gid": 0}, "env": []},
        "root": {"path": "rootfs", "readonly": True},
        "mounts": mounts,
        "linux": {"namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts", "network")]},
    }


def gvisor_command(runsc: Path, root: Path, bundle: Path, *, platform: str) -> Command:
    return (
        str(runsc),
        f"--root={root}",
        f"--platform={platform}",
        "--network=none",
        "--ignore-cgroups",
        "run",
        "--bundle",
        str(bundle),
        "shellwego-doctor-trial",
    )


def runc_command(runc: Path, root: Path, bundle: Path) -> Command:
    return (str(runc), "--root", str(root), "run", "--bundle", str(bundle), f"shellwego-doctor-{bundle.name}")


async def try_gvisor() -> Result:
    name = "gVisor sandbox"
    found = find_program("runsc")
    if found is None:
        return _missing(name, "runsc")
    if os.geteuid() != 0:
        return _needs_root(name)
    platform = "ptrace" if found.source is Source.FALLBACK else "systrap"
    failure = await _run_bundle(lambda root, bundle: gvisor_command(found.path, root, bundle, platform=platform))
    if failure:
        return Result(name, Verdict.FAILED, failure, "gVisor needs Linux 4.14.77 or newer, and ptrace not forbidden.")
    if found.source is Source.FALLBACK:
        return Result(name, Verdict.WARNING, GVISOR.fallback_costs, "`shellwego engines install` builds a current one.")
    return Result(name, Verdict.OK, f"a sandbox started and ended ({platform})")


async def try_runc() -> Result:
    name = "runc container"
    found = find_program("runc")
    if found is None:
        return _missing(name, "runc")
    if os.geteuid() != 0:
        return _needs_root(name)
    failure = await _run_bundle(lambda root, bundle: runc_command(found.path, root, bundle))
    if failure:
        return Result(name, Verdict.FAILED, failure, "Builds and workloads of `--runtime runc` need it.")
    return Result(name, Verdict.OK, "a container started and ended")


async def try_nftables() -> Result:
    name = "nftables"
    found = find_program("nft")
    if found is None:
        return _missing(name, "nft")
    if os.geteuid() != 0:
        return _needs_root(name)
    try:
        command = ("unshare", "--net", "--", str(found.path), "-f", "-")
        await run_command(command, stdin=_NFT_RULES.encode(), timeout_seconds=_SECONDS)
    except CommandFailed as error:
        return Result(
            name,
            Verdict.FAILED,
            str(error),
            "The kernel needs nf_tables with NAT, conntrack, connlimit and the bridge family.",
        )
    return Result(name, Verdict.OK, "rules like a cloud's load in a namespace of their own")


async def try_links() -> Result:
    name = "bridge, veth and tap"
    if os.geteuid() != 0:
        return _needs_root(name)
    ip = find_program("ip")
    if ip is None:
        return _missing(name, "ip")
    batch = "link add br0 type bridge\nlink add v0 type veth peer name v1\nlink set v0 master br0\n"
    batch += "tuntap add tap0 mode tap\nlink set v0 type bridge_slave isolated on\n"
    try:
        command = ("unshare", "--net", "--", str(ip.path), "-batch", "-")
        await run_command(command, stdin=batch.encode(), timeout_seconds=_SECONDS)
    except CommandFailed as error:
        return Result(name, Verdict.FAILED, str(error), "The kernel needs bridge, veth and tun.")
    return Result(name, Verdict.OK, "made in a namespace of their own")


async def try_haproxy() -> Result:
    name = "haproxy"
    found = find_program("haproxy")
    if found is None:
        return _missing(name, "haproxy")
    with tempfile.TemporaryDirectory(prefix="shellwego-doctor-") as directory:
        configuration = Path(directory) / "haproxy.cfg"
        configuration.write_text(_HAPROXY_CONFIGURATION)
        try:
            await run_command((str(found.path), "-c", "-q", "-f", str(configuration)), timeout_seconds=_SECONDS)
        except CommandFailed as error:
            return Result(name, Verdict.FAILED, str(error), "Install HAProxy 2.6 or newer.")
    return Result(name, Verdict.OK, "reads a configuration")


async def try_program(program: str, *arguments: str) -> Result:
    """That it starts and speaks."""
    found = find_program(program)
    if found is None:
        return _missing(program, program)
    try:
        said = await run_command((str(found.path), *(arguments or ("--version",))), timeout_seconds=_SECONDS)
    except CommandFailed as error:
        return Result(program, Verdict.FAILED, str(error), "`shellwego engines install` puts it in order.")
    return Result(program, Verdict.OK, (said.stdout or said.stderr).strip().splitlines()[0][:80])


async def try_cgroups() -> Result:
    name = "cgroup controllers"
    version, present = cgroup_controllers(_CGROUP_ROOT)
    lacking = [controller for controller in _CONTROLLERS if controller not in present]
    if lacking:
        said = f"{', '.join(lacking)} can't be had (cgroup v{version})"
        remedy = (
            "Without them memory, CPU and processes of an app have no limit. In a container, give it /sys/fs/cgroup."
        )
        return Result(name, Verdict.FAILED, said, remedy)
    if not os.access(_CGROUP_ROOT, os.W_OK):
        return (
            _needs_root(name)
            if os.geteuid() != 0
            else Result(name, Verdict.FAILED, "/sys/fs/cgroup is read-only", "In a container, mount it for writing.")
        )
    return Result(name, Verdict.OK, f"{', '.join(_CONTROLLERS)} (cgroup v{version})")


def cgroup_controllers(root: Path) -> tuple[int, frozenset[str]]:
    """Version, and which controllers are there. A hybrid system counts as v1, as its controllers are there."""
    unified = root / "cgroup.controllers"
    if unified.exists():
        return 2, frozenset(unified.read_text().split())
    return 1, frozenset(entry.name for entry in root.iterdir() if entry.is_dir()) if root.exists() else frozenset()


async def try_overlay() -> Result:
    name = "overlay file system"
    known = {line.split()[-1] for line in Path("/proc/filesystems").read_text().splitlines()}
    if "overlay" in known:
        return Result(name, Verdict.OK, "known to the kernel")
    return Result(name, Verdict.WARNING, "not loaded", "`modprobe overlay`; runc and builds need it.")


async def try_disk(directory: Path) -> Result:
    name = f"disk of {directory}"
    existing = next(parent for parent in (directory, *directory.parents) if parent.exists())
    disk = look_at_disk(existing)
    free = disk.free_bytes
    said = f"{free / (1 << 30):.1f} GiB free"
    if disk.read_only:
        remedy = "Look for its cause in the kernel's log (dmesg), check the file system, then mount it anew."
        return Result(name, Verdict.FAILED, "it is read-only", remedy)
    if free < _NEEDED_BYTES:
        return Result(name, Verdict.FAILED, said, "Free some space: images, builds and databases live there.")
    if free < _FREE_BYTES:
        return Result(name, Verdict.WARNING, said, "A few images and builds fill that.")
    return Result(name, Verdict.OK, said)


async def try_descriptors() -> Result:
    name = "open files"
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < _DESCRIPTORS:
        return Result(name, Verdict.WARNING, f"at most {hard}", "Raise the hard limit (`ulimit -Hn`, LimitNOFILE=).")
    return Result(name, Verdict.OK, f"at most {'unlimited' if hard == resource.RLIM_INFINITY else hard}")


async def try_port(address: str, port: int, option: str) -> Result:
    name = f"port {port}"
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except PermissionError:
            return _needs_root(name)
        except OSError as error:
            remedy = f"It is taken (`ss -ltnp`): if not by a cloud of yours, choose another with {option}."
            return Result(name, Verdict.WARNING, str(error.strerror), remedy)
    return Result(name, Verdict.OK, "free")


async def _run_bundle(command: Callable[[Path, Path], Command]) -> str:
    """Why it failed; nothing if it ran."""
    place = Path(tempfile.mkdtemp(prefix="shellwego-doctor-"))
    bundle, root = place / "bundle", place / "state"
    rootfs = bundle / "rootfs"
    rootfs.mkdir(parents=True)
    directories = tuple(d for d in ("/usr", "/bin", "/lib", "/lib64") if Path(d).exists())
    try:
        for each in ("/proc", "/dev", *directories):
            (rootfs / each.lstrip("/")).mkdir()
        (bundle / "config.json").write_text(json.dumps(sandbox_configuration(directories)))
        await run_command(command(root, bundle), timeout_seconds=_SECONDS, cwd=bundle)
    except CommandFailed as error:
        return str(error)
    finally:
        await _clear(place)
    return ""


async def _clear(place: Path) -> None:
    """
    Only empty folders are removed where a sandbox had the host's mounted: whatever a broken runtime left mounted,
    rmdir(2) refuses, where a recursive removal would go through it.
    """
    # runsc mounts a namespace of its own below its state and leaves it there.
    await run_command(("umount", "--lazy", "--quiet", str(place / "state" / "null-netns")), check=False)
    shutil.rmtree(place / "state", ignore_errors=True)
    (place / "bundle" / "config.json").unlink(missing_ok=True)
    rootfs = place / "bundle" / "rootfs"
    for each in (*rootfs.iterdir(), rootfs, rootfs.parent, place):
        with contextlib.suppress(OSError):
            each.rmdir()


def _missing(name: str, program: str) -> Result:
    return Result(name, Verdict.FAILED, f"{program} can't be found", "`shellwego engines install` installs it.")


def _needs_root(name: str) -> Result:
    return Result(name, Verdict.WARNING, "not tried: that takes root", "sudo shellwego doctor")
