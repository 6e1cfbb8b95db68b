"""How does `shellwego` begin? With what makes its imports cheaper; then `processes.commands` says what there is.

Imports are most of a command's CPU time, and a tenth of them went into what nobody asked for: httpx imports a command
line of its own where click and rich are installed, the collector looks for garbage among modules and classes, and
pydantic reads the metadata of every installed package in search of plugins.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys

_YOUNG_OBJECTS = 100_000
"""Some two collections on the way to a command instead of hundreds; one that runs for long still has its collector."""


def main() -> None:
    gc.set_threshold(_YOUNG_OBJECTS)
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")  # Also for the processes that `up` starts.
    sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]  # None: importing it fails, as httpx expects.
    importlib.import_module("shellwego.processes.commands").main()


if __name__ == "__main__":
    main()
