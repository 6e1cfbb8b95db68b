"""Runs a command line against a cloud in memory, as a person or a pipe would see it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.unit.client.fake_cloud import URL, FakeCloud
from typer.testing import CliRunner

from shellwego.cli import app
from shellwego.cli.here import Here


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


@dataclass
class CommandLine:
    cloud: FakeCloud = field(default_factory=FakeCloud)

    def __call__(self, *words: str, stdin: str = "") -> Ran:
        result = CliRunner().invoke(app.build(), list(words), input=stdin, prog_name="shellwego")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ran(result.exit_code, result.stdout, result.stderr)


@pytest.fixture
def shellwego(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CommandLine:
    line = CommandLine()
    for name in ("SHELLWEGO_OUTPUT", "SHELLWEGO_CA", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SHELLWEGO_URL", URL)
    monkeypatch.setenv("SHELLWEGO_TOKEN", "good")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(Here, "http", line.cloud.transport())
    return line
