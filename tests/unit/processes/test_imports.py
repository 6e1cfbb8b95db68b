"""A killed server is back when its modules are imported: that is most of the time that nothing new begins."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "module", ["alembic", "pyroute2", "shellwego.edge", "shellwego.agent", "typer", "click", "rich"]
)
def test_a_server_imports_nothing_that_it_does_not_need(module: str, imported_by_server: frozenset[str]) -> None:
    assert module not in imported_by_server


@pytest.fixture(scope="module")
def imported_by_server() -> frozenset[str]:
    program = (
        "import atexit, sys; from shellwego.processes.main import main; sys.argv[1:] = ['server', '--help']; "
        "atexit.register(lambda: print('MODULES', *(name for name, module in sys.modules.items() if module))); main()"
    )
    said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=120)
    return frozenset(said.stdout.partition("MODULES")[2].split())
