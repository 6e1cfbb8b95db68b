#!/usr/bin/env -S python3 -IS
# Runs outside the package, before each step: an import that costs milliseconds is no gain here.
# ruff: noqa: PTH100, PTH118, PTH120, PTH123, S606
"""How does one step of a build run in a sandbox of its own?

BuildKit calls this file where it would call runc. A copy lies beside its settings (`step.json`) in the directory of
one build daemon: which runtime a daemon's steps get is thus decided by us, before anything of the build is read, and
nothing that a build says reaches that decision. Standard library only: it runs once or more per step.

runsc is asked to keep no cgroup of its own (`--ignore-cgroups`): it stays in that of the daemon, which has the limits.
"""

import json
import os
import sys
from typing import Any

Json = dict[str, Any]

CERTIFICATES = "/dev/shellwego-certificates.pem"
"""Where a step finds the operator's certificates. Below /dev, a tmpfs of the sandbox: the mount point leaves no trace
in the image, as one anywhere else would."""

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
    """Prepare the step and become its runtime."""
    here = os.path.dirname(os.path.abspath(sys.argv[0]))
    with open(os.path.join(here, "step.json"), encoding="utf-8") as file:
        settings = json.load(file)
    options, verb, arguments = split_command(sys.argv[1:])
    if verb == "delete" and settings["runtime"] != "runc":
        return  # `runsc run` without --keep has removed the sandbox already.
    if verb == "run":
        bundle = arguments[arguments.index("--bundle") + 1]
        path = os.path.join(bundle, "config.json")
        with open(path, encoding="utf-8") as file:
            spec = json.load(file)
        with open(path, "w", encoding="utf-8") as file:
            json.dump(with_rules(spec, settings, arguments[-1]), file)
        # When memory runs out the kernel shall end the step, not the daemon that has to say so.
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write("600")
    command = command_for(settings, options, verb, arguments)
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
