#!/usr/bin/env -S python3 -IS
# Runs outside the package, before each step: an import that costs milliseconds is no gain here.
# ruff: noqa: PTH100, PTH118, PTH120, PTH123, S606
"""How does one step of a build run in a sandbox of its own?

BuildKit calls this file where it would call runc. A copy lies beside its settings (`step.json`) in the directory of
one build daemon: which runtime a daemon's steps get is thus decided by us, before anything of the build is read, and
nothing that a build says reaches that decision. Standard library only: it runs once or more per step.

runsc is asked to keep no cgroup of its own (`--ignore-cgroups`): it stays in that of the daemon, which has the limits.
"""

import ctypes
import json
import os
import signal
import stat
import sys
from typing import Any

Json = dict[str, Any]

CERTIFICATES = "/dev/shellwego-certificates.pem"
"""Where a step finds the operator's certificates. Below /dev, a tmpfs of the sandbox: under runc the mount point
leaves no trace in the image; runsc makes an empty file of that name in the image all the same, see `remove_stub`."""

CERTIFICATE_VARIABLES = (
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "NODE_EXTRA_CA_CERTS",
    "npm_config_cafile",
    "GIT_SSL_CAINFO",
    "CARGO_HTTP_CAINFO",
    "AWS_CA_BUNDLE",
    "DENO_CERT",
)

TRACES = "/dev/otel-"
TRACE_VARIABLES = ("OTEL_", "TRACEPARENT=", "TRACESTATE=")

# Raw sockets would go past the filter rules of the builder's network; no build needs a device node.
REFUSED_CAPABILITIES = frozenset({"CAP_NET_RAW", "CAP_MKNOD", "CAP_NET_ADMIN", "CAP_SYS_ADMIN"})


def split_command(arguments: list[str]) -> tuple[list[str], str, list[str]]:
    """The global options, the verb and its own arguments, of a command line as go-runc writes them."""
    for place, argument in enumerate(arguments):
        if argument in ("run", "create", "start", "exec", "kill", "delete", "state", "list"):
            return arguments[:place], argument, arguments[place + 1 :]
    return arguments, "", []


def with_rules(spec: Json, settings: Json, step: str) -> Json:
    """The step's OCI configuration as we run it: our certificates in, what a step may not have out."""
    process = spec["process"]
    for held in process.get("capabilities", {}).values():
        held[:] = [name for name in held if name not in REFUSED_CAPABILITIES]
    process["noNewPrivileges"] = False  # `sudo` and setuid helpers are common in Dockerfiles; the sandbox is the wall.
    # The daemon offers each step a socket for traces: a door to a process outside the sandbox that no step needs.
    spec["mounts"] = [mount for mount in spec.get("mounts", []) if not mount["destination"].startswith(TRACES)]
    process["env"] = [entry for entry in process.get("env", []) if not entry.startswith(TRACE_VARIABLES)]
    if settings.get("certificates"):
        spec["mounts"].append(
            {
                "destination": CERTIFICATES,
                "type": "bind",
                "source": settings["certificates"],
                "options": ["bind", "ro", "nosuid", "nodev", "noexec"],
            }
        )
        named = {entry.split("=", 1)[0] for entry in process["env"]}
        process["env"].extend(
            f"{variable}={CERTIFICATES}" for variable in CERTIFICATE_VARIABLES if variable not in named
        )
    if settings["runtime"] == "runc":
        # Without a path below the daemon's own, runc would put the step beside it, where no limit holds.
        spec["linux"]["cgroupsPath"] = settings["cgroup"] + "/" + step
    return spec


def command_for(settings: Json, options: list[str], verb: str, arguments: list[str]) -> list[str]:
    """The runtime's own command line. Pure."""
    if settings["runtime"] == "runc":
        return [settings["binary"], "--root", settings["state"], *options, verb, *arguments]
    return [
        settings["binary"],
        "--platform=systrap",
        "--network=host",  # Of the builder's own namespace; filter rules and the way out live there.
        "--overlay2=none",  # What a step writes must reach the layer that BuildKit reads afterwards.
        "--ignore-cgroups",
        "--root=" + settings["state"],
        *options,
        verb,
        *[argument for argument in arguments if argument != "--keep"],
    ]


def main() -> None:
    """Prepare the step, run it and leave no trace of the preparation."""
    here = os.path.dirname(os.path.abspath(sys.argv[0]))
    with open(os.path.join(here, "step.json"), encoding="utf-8") as file:
        settings = json.load(file)
    options, verb, arguments = split_command(sys.argv[1:])
    if verb == "delete" and settings["runtime"] != "runc":
        return  # `runsc run` without --keep has removed the sandbox already.
    command = command_for(settings, options, verb, arguments)
    if verb != "run":
        os.execv(command[0], command)
    bundle = arguments[arguments.index("--bundle") + 1]
    path = os.path.join(bundle, "config.json")
    with open(path, encoding="utf-8") as file:
        spec = json.load(file)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(with_rules(spec, settings, arguments[-1]), file)
    # When memory runs out the kernel shall end the step, not the daemon that has to say so.
    with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("600")
    us = os.getpid()
    child = os.fork()
    if child == 0:
        die_with(us)
        os.execv(command[0], command)
    _, status = os.waitpid(child, 0)
    remove_stub(os.path.join(bundle, "rootfs"))
    code = os.waitstatus_to_exitcode(status)
    sys.exit(128 - code if code < 0 else code)


def die_with(parent: int) -> None:
    """A killed step must not live on in a runtime whose parent is gone (prctl(2), PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(137)


def remove_stub(rootfs: str) -> None:
    """
    Take away the empty file that runsc made in the image as a mount point for the certificates. The root file system
    is a stranger's: its `dev` may be a link to anywhere, so nothing is followed.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    folder, name = CERTIFICATES.lstrip("/").split("/")
    try:
        top = os.open(rootfs, flags)
        try:
            at = os.open(folder, flags, dir_fd=top)
        finally:
            os.close(top)
        try:
            found = os.stat(name, dir_fd=at, follow_symlinks=False)
            if stat.S_ISREG(found.st_mode) and found.st_size == 0:
                os.unlink(name, dir_fd=at)
        finally:
            os.close(at)
    except OSError:
        pass


if __name__ == "__main__":
    main()
