"""What does a Procfile say?

One process type per line, `name: command`, as Heroku defined it. The command is given to `sh -c` inside the
instance, where `$PORT` is set.
"""

from __future__ import annotations

import re

from shellwego.core.apps import check_process_type
from shellwego.core.errors import InvalidField

_LINE = re.compile(r"([A-Za-z][A-Za-z0-9_-]*)\s*:\s*(.+)")

MAXIMUM_PROCESS_TYPES = 20
RELEASE_PROCESS = "release"
"""A command to run once before a release serves, by the custom it comes from; nobody wants it running on."""


def parse_procfile(text: str) -> dict[str, str]:
    """Commands by process type, in the file's order. Raises InvalidField with the line that is wrong."""
    commands: dict[str, str] = {}
    for number, raw in enumerate(text.removeprefix("\ufeff").splitlines(), start=1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise InvalidField(
                "Procfile", f"{line[:60]!r} is not `name: command`, such as `web: gunicorn app:app`.", line=number
            )
        name = match[1]
        try:
            check_process_type(name, field="Procfile")
        except InvalidField as error:
            raise InvalidField("Procfile", error.problem, line=number) from error
        if name in commands:
            raise InvalidField("Procfile", f"{name!r} is defined twice.", line=number)
        if "\0" in match[2]:
            raise InvalidField("Procfile", "holds a NUL character.", line=number)
        commands[name] = match[2]
        if len(commands) > MAXIMUM_PROCESS_TYPES:
            raise InvalidField("Procfile", f"has more than {MAXIMUM_PROCESS_TYPES} process types.", line=number)
    if not commands:
        raise InvalidField("Procfile", "names no process type. Add a line such as `web: gunicorn app:app`.")
    return commands
