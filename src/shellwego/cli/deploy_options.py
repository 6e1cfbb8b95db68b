"""Which flags does `deploy` take, and what does its help say of each? One per key of the app's own file, and more."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def _option(*names: str, help: str, metavar: str | None = None) -> typer.models.OptionInfo:
    return typer.Option(*names, help=help, metavar=metavar, show_default=False)  # type: ignore[no-any-return]


Image = Annotated[str | None, _option("--image", help="Run this image instead of a folder.", metavar="REF")]
Name = Annotated[str | None, _option("--name", "-n", help="The app; made if it isn't there.", metavar="NAME")]
File = Annotated[Path | None, _option("--file", "-f", help="Another file than DIR/shellwego.toml.")]
Process = Annotated[
    list[str] | None, _option("--process", "-p", help="What a process type runs.", metavar="TYPE=COMMAND")
]
Scale = Annotated[list[str] | None, _option("--scale", help="How many instances.", metavar="[TYPE=]N")]
Env = Annotated[
    list[str] | None, _option("--env", "-e", help="Set a variable; @FILE for a file's text.", metavar="K=V")
]
Port = Annotated[int | None, _option("--port", help="Port the app listens on, given as PORT (8080).")]
Runtime = Annotated[str | None, _option("--runtime", help="gvisor, gvisor-host-network or runc.", metavar="NAME")]
Grace = Annotated[float | None, _option("--grace", help="Time to end after SIGTERM (10).", metavar="SECONDS")]
HealthPath = Annotated[str | None, _option("--health-path", help="Check by GET of this path.", metavar="/PATH")]
HealthTcp = Annotated[bool, typer.Option("--health-tcp", help="Check that the port accepts connections.")]
HealthCommand = Annotated[str | None, _option("--health-command", help="Check by a command inside.", metavar="COMMAND")]
HealthNone = Annotated[bool, typer.Option("--health-none", help="Check nothing: running is healthy.")]
HealthInterval = Annotated[float | None, _option("--health-interval", help="Between checks (5).", metavar="SECONDS")]
HealthTimeout = Annotated[float | None, _option("--health-timeout", help="For one check (3).", metavar="SECONDS")]
HealthStartPeriod = Annotated[
    float | None, _option("--health-start-period", help="Before failures count (60).", metavar="SECONDS")
]
HealthRetries = Annotated[
    int | None, _option("--health-retries", help="Failures in a row to be unhealthy (3).", metavar="N")
]
Memory = Annotated[str | None, _option("--memory", "-m", help="Memory of one instance (256m).", metavar="SIZE")]
Cpu = Annotated[str | None, _option("--cpu", help="Cores of one instance (0.5).", metavar="CORES")]
Pids = Annotated[int | None, _option("--pids", help="Processes and threads (256).", metavar="N")]
Disk = Annotated[str | None, _option("--disk", help="Own writable files (1g).", metavar="SIZE")]
Dockerfile = Annotated[str | None, _option("--dockerfile", help="Its path within DIR.", metavar="PATH")]
Target = Annotated[str | None, _option("--target", help="Stage of the Dockerfile.", metavar="STAGE")]
BuildArg = Annotated[list[str] | None, _option("--build-arg", help="A build argument.", metavar="K=V")]
BuildSecret = Annotated[
    list[str] | None, _option("--build-secret", help="A variable of yours, as a secret mount.", metavar="NAME")
]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Build everything anew.")]
Trusted = Annotated[bool, typer.Option("--trusted", help="Build in runc, where the operator allows it.")]
RegistryUser = Annotated[
    str | None,
    _option("--registry-user", help="For --image; its password is SHELLWEGO_REGISTRY_PASSWORD.", metavar="USER"),
]
Note = Annotated[str, _option("--note", help="A word about this release.", metavar="TEXT")]
