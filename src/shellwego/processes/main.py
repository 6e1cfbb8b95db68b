"""How does `shellwego` begin? With what makes its imports cheaper; then a process of a cloud, or a command.

Imports are most of a command's CPU time, and most of the time until a killed server is back. A tenth of them went into
what nobody asked for: httpx imports a command line of its own where click and rich are installed, the collector looks
for garbage among modules and classes, and pydantic reads the metadata of every installed package in search of plugins.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys

PROCESSES = frozenset({"server", "agent", "edge"})
"""The processes of a cloud: `shellwego server` needs nothing of the command line."""
_YOUNG_OBJECTS = 100_000
"""Some two collections on the way to a command instead of hundreds; one that runs for long still has its collector."""


def main() -> None:
    usual = gc.get_threshold()
    gc.set_threshold(_YOUNG_OBJECTS)
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")  # Also for the processes that `up` starts.
    _leave_out("httpx._main")
    if sys.argv[1:2] and sys.argv[1] in PROCESSES:
        _leave_out("rich")  # structlog would import it to colour what nobody's terminal shows.
        process = importlib.import_module(f"shellwego.processes.{sys.argv[1]}")
        # What was imported is here to stay: the collector need not look at it again, so it can come as usual.
        gc.freeze()
        gc.set_threshold(*usual)
        process.main(sys.argv[2:])
    else:
        importlib.import_module("shellwego.processes.commands").main()


def _leave_out(module: str) -> None:
    """Importing it fails from now on, as it would where it isn't installed: those who ask for it do without."""
    sys.modules.setdefault(module, None)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
