"""What does the command `shellwego` offer? What a user of a cloud can type, and what only its own machine can do.

Host commands are named here and imported when called, so that `shellwego --help` is quick and a client on a laptop
needs none of the server's parts.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
from pathlib import Path

import typer

from shellwego.cli.app import main as cli_main
from shellwego.cli.here import Here
from shellwego.cli.lazy import Lazy

PANEL = "This machine"
DEFAULT_DATA = Path("/var/lib/shellwego")

HOST_COMMANDS = {
    "up": Lazy("shellwego.processes.up:up", "Run a one-node cloud on this machine.", PANEL),
    "doctor": Lazy("shellwego.processes.engines:doctor", "Test each engine; say what to do about it.", PANEL),
    "engines": Lazy("shellwego.processes.engines:app", "List and install the engines.", PANEL),
    "down": Lazy("shellwego.processes.up:down", "Stop what a killed `up` left running.", PANEL),
    "server": Lazy("shellwego.processes.commands:server", "Run the control plane.", PANEL),
    "agent": Lazy("shellwego.processes.commands:agent", "Run the agent of this node.", PANEL),
    "edge": Lazy("shellwego.processes.commands:edge", "Run the proxy of this node.", PANEL),
    "uninstall": Lazy("shellwego.processes.up:uninstall", "Remove a cloud from this machine.", PANEL),
}
IMAGE_COMMANDS = {
    "bootstrap": Lazy("shellwego.processes.images:bootstrap", "Make the base images from Debian's packages."),
}


# These three are also `python -m shellwego.processes.NAME`; they parse their own arguments, `--help` too.
_THEIR_OWN = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}


def server(context: typer.Context) -> None:
    _run("server", context.args)


def agent(context: typer.Context) -> None:
    _run("agent", context.args)


def edge(context: typer.Context) -> None:
    _run("edge", context.args)


for _process in (server, agent, edge):
    _process.context_settings = _THEIR_OWN  # type: ignore[attr-defined]


def main() -> None:
    Here.local_hint = staticmethod(local_hint)
    cli_main(_present(HOST_COMMANDS), images=_present(IMAGE_COMMANDS))


def local_hint() -> str:
    """
    How to reach the cloud of this machine. Its admin token is named and not read: what one types as root should not
    be done as the operator of a cloud without having been asked for.
    """
    data = Path(os.environ.get("SHELLWEGO_DATA_DIR", DEFAULT_DATA))
    try:
        identity = json.loads((data / "cloud.json").read_bytes())
        url = f"http://{identity.get('bind', '127.0.0.1')}:{identity.get('api_port', 7080)}"
    except PermissionError:
        return f"A cloud lives in {data}; its operator (root) can read {data}/admin-token and its URL there."
    except (OSError, ValueError):
        return ""
    url = url.replace("//0.0.0.0:", "//127.0.0.1:")
    token = data / "admin-token"
    return f"shellwego auth login --url {url} --token-stdin < {token}  (the cloud of this machine)"


def _run(process: str, arguments: list[str]) -> None:
    importlib.import_module(f"shellwego.processes.{process}").main(arguments)


def _present(commands: dict[str, Lazy]) -> dict[str, Lazy]:
    return {name: entry for name, entry in commands.items() if _exists(entry.target.partition(":")[0])}


def _exists(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
