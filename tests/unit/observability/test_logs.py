"""What our processes say of themselves must never get in the way of what they do."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

import pytest

from shellwego.observability.logs import set_up_logging


class Failed:
    """A file on a disk that has been remounted read-only."""

    def write(self, _text: str) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def __getattr__(self, _name: str) -> object:
        return lambda *_: 0


@pytest.fixture
def log(tmp_path: Path) -> logging.FileHandler:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    set_up_logging("test", tmp_path)
    [handler] = root.handlers
    assert isinstance(handler, logging.FileHandler)
    yield handler
    logging.basicConfig(handlers=before, level=level, force=True)


def test_a_disk_that_fails_is_no_traceback_for_each_line(log: logging.FileHandler, capsys) -> None:
    """The operator would look for a bug in us, among hundreds of lines on a terminal that they need."""
    log.stream.close()
    log.stream = Failed()
    log.handle(logging.makeLogRecord({"msg": "a word"}))
    assert capsys.readouterr().err == ""


def test_a_bug_in_a_line_is_still_shown(log: logging.FileHandler, capsys) -> None:
    log.handle(logging.makeLogRecord({"msg": "%d", "args": ("not a number",)}))
    assert "Traceback" in capsys.readouterr().err
