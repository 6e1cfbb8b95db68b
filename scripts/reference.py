"""Which reference pages are written from code? All of `docs/reference`, and the published schema of shellwego.toml.

`python scripts/reference.py` writes them; with `--check` it only says whether they are as the code has them. Errors,
API and states are in `reference_pages.py`, configuration is in `reference_configuration.py`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["COLUMNS"] = "100"  # The pages must not depend on whose terminal wrote them.

from reference_configuration import configuration_page
from reference_pages import api_page, errors_page, states_page
from typer.main import get_command
from typer.testing import CliRunner

from shellwego.cli.app import build
from shellwego.cli.exits import MEANINGS
from shellwego.core.appfile_keys import FILE, Key, Leaf, Named, Short, Table, file_schema
from shellwego.processes.commands import HOST_COMMANDS, IMAGE_COMMANDS

ROOT = Path(__file__).resolve().parent.parent


def pages() -> dict[Path, str]:
    schema = json.dumps(file_schema(), indent=2, ensure_ascii=False) + "\n"
    return {
        ROOT / "docs/reference/cli.md": _cli(),
        ROOT / "docs/reference/shellwego-toml.md": _appfile(),
        ROOT / "docs/reference/errors.md": errors_page(),
        ROOT / "docs/reference/api.md": api_page(),
        ROOT / "docs/reference/configuration.md": configuration_page(),
        ROOT / "docs/reference/states.md": states_page(),
        ROOT / "docs/schema/shellwego.schema.json": schema,
    }


def _cli() -> str:
    parts = [
        "# Command line",
        "Written from the code by `scripts/reference.py`. The commands at the end (`up`, `doctor`, `engines`, ...) "
        "work on the cloud's own machine alone; `server`, `agent` and `edge` are what `up` runs.",
        "Every command takes `-o table|json|yaml` (or `SHELLWEGO_OUTPUT`), `--url` (`SHELLWEGO_URL`), `--token` "
        "(`SHELLWEGO_TOKEN`) and `--ca` (`SHELLWEGO_CA`). Results go to stdout, talk to stderr.",
        "| exit status | meaning |\n| --- | --- |\n"
        + "\n".join(f"| {code.value} | {meaning} |" for code, meaning in MEANINGS.items())
        + "\n\n`exec` ends with the status of the command inside; 126 and 127 also: not run, not found.",
    ]
    host = {name: entry for name, entry in HOST_COMMANDS.items() if name not in {"server", "agent", "edge"}}
    app = build(host, images=IMAGE_COMMANDS)
    for path in _commands(get_command(app)):
        shown = CliRunner().invoke(app, [*path, "--help"], prog_name="shellwego")
        parts.append(f"## shellwego {' '.join(path)}\n\n```text\n{shown.stdout.rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def _commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, listed in command.commands.items():
        found = command.load(name) if hasattr(command, "load") else listed
        if hasattr(found, "commands"):
            yield from _commands(found, (*path, name))
        else:
            yield (*path, name)


def _appfile() -> str:
    rows = "\n".join(f"| `{name}` | {about} | {kind} |" for name, about, kind in _keys(FILE))
    return (
        "# shellwego.toml\n\n"
        "Written from the code by `scripts/reference.py`. The file stands beside the source and is optional; every key "
        "is also a flag of `shellwego deploy`, and flags win. What is said nowhere stays as in the app's current "
        "release. A wrong key or value is refused with its line. Editors complete it by "
        "[its JSON schema](../schema/shellwego.schema.json).\n\n"
        "```toml\n#:schema https://shellwego.example/schema/shellwego.schema.json\n"
        'name = "shop"\n\n[processes]\nweb = "gunicorn app:app"\nworker = "python worker.py"\n\n'
        '[health]\npath = "/health"\n\n[resources]\nmemory = "512m"\ncpu = 0.5\n\n'
        '[env]\nMODE = "production"\n\n[build]\nsecrets = ["NPM_TOKEN"]\n```\n\n'
        f"| key | meaning (default) | value |\n| --- | --- | --- |\n{rows}\n"
    )


def _keys(table: Table, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    for name, key in table.keys.items():
        yield from _key(f"{prefix}{name}", key)


def _key(path: str, key: Key) -> Iterator[tuple[str, str, str]]:
    match key.shape:
        case Table():
            yield path, key.about, "table"
            yield from _keys(key.shape, f"{path}.")
        case Named(each=Short(table=inner)):
            yield f"{path}.NAME", key.about, "command, or table"
            yield from _keys(inner, f"{path}.NAME.")
        case Named(each=Leaf() as leaf):
            yield f"{path}.NAME", key.about, _kind(leaf.schema)
        case Leaf() as leaf:
            yield path, key.about, _kind(leaf.schema)


def _kind(schema: Any) -> str:
    if "anyOf" in schema:
        return " or ".join(_kind(each) for each in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{each}`" for each in schema["enum"])
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if schema["type"] == "array":
        return "list of strings"
    kind = {"integer": "whole number", "number": "number", "string": "string", "boolean": "`true` or `false`"}
    types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    words = " or ".join(kind[each] for each in types)
    if "minimum" in schema:
        words += f", {schema['minimum']:g} to {schema['maximum']:g}"
    if "examples" in schema:
        words += f", as `{json.dumps(schema['examples'][0])}`"
    return words


def main() -> int:
    stale = [path for path, text in pages().items() if not path.exists() or path.read_text("utf-8") != text]
    if "--check" in sys.argv:
        for path in stale:
            sys.stderr.write(f"{path.relative_to(ROOT)} is not as the code has it: run scripts/reference.py\n")
        return 1 if stale else 0
    for path, text in pages().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
