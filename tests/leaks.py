"""What has a cloud left on this machine?

`inventory(short)` lists all on the host that carries a cloud's short name, and `host_network()` is the host's own
network, which no cloud may change. After every end-to-end test both must be as before.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def inventory(short: str, data: Path | None = None) -> list[str]:
    """One line for each process, namespace, mount, cgroup, loop device and file that the cloud holds."""
    return sorted(
        [
            *_processes(short, data),
            *(f"namespace {p.name}" for p in Path("/run/netns").glob(f"*{short}*")),
            *(f"mount {line.split()[4]}" for line in _mounts() if short in line or (data and str(data) in line)),
            *(f"cgroup {p}" for p in _cgroups(short)),
            *(f"loop {p.parent.parent.name}" for p in _loops(data)),
            *(f"runtime directory {p}" for p in Path("/run/shellwego").glob(short)),
        ]
    )


def host_network() -> dict[str, str]:
    """The host's own rules, addresses and forwarding."""
    return {
        "nftables": _say("nft", "list", "ruleset"),
        "addresses": _say("ip", "-o", "addr", "show", "scope", "global"),
        "links": _say("ip", "-o", "-br", "link"),
        "routes": _say("ip", "route"),
        "forwarding": Path("/proc/sys/net/ipv4/ip_forward").read_text(),
    }


def _say(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout


def _processes(short: str, data: Path | None) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if short in command or (data is not None and str(data) in command):
            found.append(f"process {entry.name} {command[:160]}")
    return found


def _mounts() -> list[str]:
    return Path("/proc/self/mountinfo").read_text().splitlines()


def _cgroups(short: str) -> list[Path]:
    found: list[Path] = []
    for root, directories, _ in os.walk("/sys/fs/cgroup"):
        depth = root.count("/")
        if depth > 7:
            directories.clear()
        found.extend(Path(root) / name for name in directories if short in name)
    return found


def _loops(data: Path | None) -> list[Path]:
    if data is None:
        return []
    return [
        path
        for path in Path("/sys/block").glob("loop*/loop/backing_file")
        if str(data) in path.read_text(errors="replace")
    ]
