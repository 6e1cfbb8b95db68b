"""`python -m benches`: measure, print one table, and write it into README.md when asked."""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import NoReturn

from benches import results, world
from benches.peers import find_program
from shellwego.drivers.engines.catalogue import BUILDKIT, GVISOR
from shellwego.processes.engines_found import find_engines
from shellwego.processes.host_command import need_root

FIGURES = ("api", "storm", "routes", "proxy", "start", "deploy", "neighbour", "memory", "idle")
"""Each is a module with `run(bench) -> rows`. In this order: those without a cloud first, a hundred apps last."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benches", description="Measure ShellWeGo beside its peers.")
    parser.add_argument("--only", action="append", choices=FIGURES, help="this figure; repeatable")
    parser.add_argument("--write", action="store_true", help="put the table into benches/README.md")
    parser.add_argument("--quick", action="store_true", help="half the turns, to try it")
    given = parser.parse_args(arguments)
    if given.quick and given.write:
        parser.error("--quick is for trying; what is written takes all turns.")
    need_root("Sandboxes and network namespaces")
    signal.signal(signal.SIGTERM, _interrupt)
    # Whoever measures may have asked for no compiled modules; then every process would compile ours at each start.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    chosen = [name for name in FIGURES if not given.only or name in given.only]
    about = results.surroundings()
    about += f", gVisor {GVISOR.pinned}, BuildKit {BUILDKIT.pinned}, {results.versions(_programs())}."
    rows: list[results.Row] = []
    notes: list[str] = []
    failed = []
    with ExitStack() as stack:
        bench = world.begin(stack, quick=given.quick)
        for name in chosen:
            print(f"{name}:", flush=True)
            began, measured = time.monotonic(), results.moment()
            with ExitStack() as own:
                bench.own = own
                try:
                    found = importlib.import_module(f"benches.{name}").run(bench)
                    rows += [replace(row, measured=measured) for row in found]
                except Exception:
                    failed.append(name)
                    traceback.print_exc()
            print(f"  {time.monotonic() - began:.0f} s", flush=True)
            notes += [f"{name}: {note}" for note in bench.notes]
            bench.notes.clear()
            if given.write:  # After each, so that a run that is broken off was not for nothing.
                results.write(rows, about, notes, figures=[f for f in chosen if f not in failed])
    print("\n".join(("", about, *notes, "", results.table(rows))))
    return 1 if failed else 0


def _programs() -> dict[str, tuple[str, ...]]:
    engines = find_engines()
    commands: dict[str, tuple[str, ...]] = {
        "runc": (str(engines.runc), "--version"),
        "HAProxy": (str(engines.haproxy), "-v"),
    }
    for peer, argument in (("traefik", "version"), ("caddy", "version"), ("nginx", "-v")):
        program = find_program(peer)
        if program is not None:
            commands[peer] = (str(program), argument)
    return commands


def _interrupt(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
