"""How do our own processes log?

One JSON object a line into a rotated file, bounded in size; readable lines on a terminal. Values that look like secrets
by their key are cut before anything is written, whoever logged them.
"""

from __future__ import annotations

import logging
import logging.handlers
import sys
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import structlog

_SECRET_WORDS = ("password", "secret", "token", "authorization", "env", "config", "key_pem", "credentials")
_FILE_BYTES, _FILES = 10 << 20, 5


def redact(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace the values of keys that name secrets."""
    for key in event:
        if any(word in key.lower() for word in _SECRET_WORDS):
            event[key] = "[redacted]"
    return event


def set_up_logging(process: str, directory: Path | None, *, verbose: bool = False) -> None:
    """
    Log as `process` to `directory`/`process`.log, at most 60 MB with its predecessors, and to stderr when it is a
    terminal, `verbose`, or the only place there is.
    """
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        redact,
    ]
    handlers: list[logging.Handler] = []
    file = None if directory is None else _open_log(directory / f"{process}.log")
    if file is not None:
        file.setFormatter(
            structlog.stdlib.ProcessorFormatter(
                foreign_pre_chain=shared,
                processors=[
                    structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                    structlog.processors.format_exc_info,
                    structlog.processors.JSONRenderer(),
                ],
            )
        )
        handlers.append(file)
    if verbose or file is None:
        console = logging.StreamHandler(sys.stderr)
        console.setFormatter(
            structlog.stdlib.ProcessorFormatter(
                foreign_pre_chain=shared,
                processors=[
                    structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                    structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
                ],
            )
        )
        handlers.append(console)
    logging.basicConfig(level=logging.INFO, handlers=handlers, force=True)
    for noisy in ("httpx", "httpcore", "_granian", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=True,
    )


class _LogFile(logging.handlers.RotatingFileHandler):
    """On a disk that fails what we do counts more than what we say of it: no traceback for each line."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is logging's
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


def _open_log(path: Path) -> logging.Handler | None:
    """None where it can't be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        return _LogFile(path, maxBytes=_FILE_BYTES, backupCount=_FILES, encoding="utf-8")
    except OSError:
        return None
