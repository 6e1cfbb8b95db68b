"""What a machine's reset takes away of a cloud, taken away at once; and what it leaves, which is the disk."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path

from tests.e2e.cloud import RunningCloud, eventually
from tests.leaks import inventory


def cut_the_power(cloud: RunningCloud) -> None:
    """Every process, namespace, mount, group and loop device of the cloud is gone, and what it had in /run."""
    short, data = cloud.short, cloud.data
    eventually("no process is left", lambda: not _kill_everything(short, data))
    if cloud.process is not None:
        cloud.process.wait(timeout=10)
    for path in reversed(_of("mount", short, data)):
        subprocess.run(("umount", "--lazy", path), check=True, timeout=20)
    for name in _of("namespace", short, data):
        subprocess.run(("ip", "netns", "delete", name), check=True, timeout=20)
    for name in _of("loop", short, data):
        subprocess.run(("losetup", "--detach", f"/dev/{name}"), check=False, timeout=20)  # Gone with its mount, mostly.
    for path in _groups(short, data):
        path.rmdir()
    shutil.rmtree(Path("/run/shellwego") / short)
    eventually("nothing is left", lambda: inventory(short, data) == [])


def _kill_everything(short: str, data: Path) -> set[int]:
    """One SIGKILL each: those that name the cloud, that are in a group of its own, or in a namespace of its own."""
    pids = {int(line.split()[1]) for line in inventory(short, data) if line.startswith("process")}
    for group in _groups(short, data):
        with contextlib.suppress(OSError):
            pids |= set(map(int, (group / "cgroup.procs").read_text().split()))
    for name in _of("namespace", short, data):
        said = subprocess.run(("ip", "netns", "pids", name), capture_output=True, text=True, check=False, timeout=20)
        pids |= set(map(int, said.stdout.split()))
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return pids


def _of(kind: str, short: str, data: Path) -> list[str]:
    return [line.split()[-1] for line in inventory(short, data) if line.startswith(f"{kind} ")]


def _groups(short: str, data: Path) -> list[Path]:
    """Those of the cloud and all in them, the inner ones first; a hierarchy that is mounted twice counts once."""
    found = {Path(root).resolve() for path in _of("cgroup", short, data) for root, _, _ in os.walk(path)}
    return sorted(found, key=lambda path: len(path.parts), reverse=True)
