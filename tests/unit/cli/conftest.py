"""The command line under test, for every file of this folder."""

from tests.unit.cli.command_line import shellwego

__all__ = ["shellwego"]
