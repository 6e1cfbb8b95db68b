"""Help: quick, complete, and with something to copy."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.unit.cli.command_line import CommandLine
from typer.main import get_command

from shellwego.cli import app
from shellwego.cli.exits import MEANINGS, Exit
from shellwego.cli.groups import app_names


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name in getattr(command, "commands", {}):
        found = command.load(name) if hasattr(command, "load") else command.commands[name]
        if hasattr(found, "commands"):
            yield from commands(found, (*path, name))
        else:
            yield (*path, name), found


ALL = dict(commands(get_command(app.build())))


def test_every_command_of_the_issue_is_there() -> None:
    wanted = """deploy|apps create|apps list|apps get|apps stop|apps start|apps restart|apps delete|scale|releases list|
        rollback|deployments list|deployments get|deployments cancel|instances list|logs|exec|config set|config unset|
        config list|config import|status|open|auth login|auth status|auth logout|tokens create|tokens list|
        tokens revoke|images map|images unmap|images mappings|nodes list|organisations create|organisations list|
        users create|users list|completion|schema"""
    assert {tuple(words.split()) for words in wanted.split("|")} <= set(ALL)


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_each_help_has_an_example_that_begins_with_its_command(path: tuple[str, ...]) -> None:
    assert "\b\nExample" in ALL[path].help
    assert f"  shellwego {' '.join(path)}" in ALL[path].help or f"shellwego {' '.join(path)}" in ALL[path].help


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_each_help_fits_a_terminal(path: tuple[str, ...], shellwego: CommandLine) -> None:
    ran = shellwego(*path, "--help")
    assert ran.code == 0
    assert max(len(line) for line in ran.out.splitlines()) <= 100
    assert "-o, --output" in ran.out


def test_exit_codes_are_written_down(shellwego: CommandLine) -> None:
    assert set(MEANINGS) == set(Exit)
    shown = shellwego("--help").out
    assert all(meaning in shown for meaning in MEANINGS.values())


def test_help_imports_neither_the_client_nor_a_command() -> None:
    """It is what makes it quick; a clock in a test would only be flaky."""
    code = (
        "import sys; sys.argv = ['shellwego', '--help']\n"
        "from shellwego.processes.main import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'httpx', 'pydantic', 'rich', 'websockets', 'sqlalchemy', 'fastapi'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "deploy" in done.stdout


def test_a_deploy_imports_no_more_than_it_uses(tmp_path: Path) -> None:
    """Its imports are most of what an unchanged redeploy takes; httpx alone would bring another command line along."""
    (tmp_path / "index.html").write_text("hello")
    code = (
        "import sys; sys.argv = ['shellwego', '--url', 'http://127.0.0.1:9', 'deploy', *sys.argv[1:]]\n"
        "from shellwego.processes.main import main\n"
        "try: main()\n"
        "except SystemExit: assert 'httpx' in sys.modules\n"
        "unused = {'click', 'pygments', 'rich.progress', 'websockets', 'sqlalchemy', 'fastapi', 'yaml'}\n"
        "assert not unused & set(sys.modules), unused & set(sys.modules)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path), "--name", "hello"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "can't be reached" in done.stderr


def test_version(shellwego: CommandLine) -> None:
    assert shellwego("--version").out.startswith("shellwego 0.")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shellwego: CommandLine, shell: str) -> None:
    assert "_SHELLWEGO_COMPLETE" in shellwego("completion", shell).out


def test_completion_knows_the_apps(shellwego: CommandLine) -> None:
    shellwego.cloud.add_app("shop")
    shellwego.cloud.add_app("blog")
    assert app_names("s") == ["shop"]
    shellwego.cloud.faults = [lambda request: httpx.Response(500)]
    assert app_names("s") == []


def test_completion_completes() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "shellwego.processes.main"],
        env={"_SHELLWEGO_COMPLETE": "complete_bash", "COMP_WORDS": "shellwego apps ", "COMP_CWORD": "2"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert {"list", "get", "stop", "delete"} <= set(done.stdout.split()), done.stderr
