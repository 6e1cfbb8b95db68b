#!/usr/bin/env -S python3 -IS
# Runs outside the package, before each step: an import that costs milliseconds is no gain here.
# ruff: noqa: PTH123, T201, S606
"""How does a process of a build come to stand in its cgroup, its network and its own mounts, before its first line?

Run as `python3 -IS buildkit_launch.py JSON`: joins the cgroup, then the network namespace, then makes a mount
namespace of its own, mounts what the JSON says and becomes the command. The mounts live exactly as long as the last
process in that namespace: a killed daemon leaves no mount and no loop device on the host. Standard library only,
since it runs outside our package; os.setns and os.unshare exist from Python 3.12 on.
"""

import ctypes
import json
import os
import sys

CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000
MS_BIND = 0x1000
MS_REC = 0x4000
MS_SLAVE = 0x80000

_libc = ctypes.CDLL(None, use_errno=True)


def checked(result: int, doing: str) -> None:
    """Raise what errno says about a failed libc call."""
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{doing}: {os.strerror(code)}")


def join_network(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    checked(_libc.setns(descriptor, CLONE_NEWNET), f"entering {path}")
    os.close(descriptor)


def separate_mounts() -> None:
    checked(_libc.unshare(CLONE_NEWNS), "making a mount namespace")
    # Slave, not private: a network namespace that is removed on the host must not live on because we see its mount.
    checked(_libc.mount(b"none", b"/", None, MS_REC | MS_SLAVE, None), "parting from the host's mounts")


def bind(source: str, target: str) -> None:
    checked(_libc.mount(source.encode(), target.encode(), None, MS_BIND, None), f"mounting {target}")


def run(command: list[str]) -> None:
    """By hand: importing `subprocess` takes as long as all else here, and every build waits for its client."""
    status = os.waitstatus_to_exitcode(os.waitpid(os.posix_spawn(command[0], command, os.environ), 0)[1])
    if status != 0:
        raise OSError(f"{command} ended with status {status}")


def main() -> None:
    """Stand where the settings say, then become the command."""
    settings = json.loads(sys.argv[1])
    for path in settings["cgroup_files"]:
        with open(path, "w", encoding="ascii") as file:
            file.write(str(os.getpid()))
    try:
        if settings.get("network"):
            join_network(settings["network"])
        separate_mounts()
        for mount in settings.get("mounts", []):
            if "command" in mount:
                run(mount["command"])
            else:
                bind(mount["source"], mount["target"])
    except OSError as error:
        print(f"build daemon can't be prepared: {error}", file=sys.stderr, flush=True)
        sys.exit(70)
    os.execve(settings["command"][0], settings["command"], settings["env"])


if __name__ == "__main__":
    main()
