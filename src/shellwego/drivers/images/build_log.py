"""What does a person read while BuildKit works?

BuildKit reports as JSON (`--progress=rawjson`): states of its steps and their output in pieces. This makes the lines
of `docker build --progress=plain` out of it, which people know, and keeps three rules. A secret's value is never
shown, whole or in a piece. A control character never reaches a terminal. No line and no log is endless.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from shellwego.core.redaction import Redaction, secrets_in
from shellwego.drivers.images.port import BuildRequest

LINE_CHARACTERS = 2000
LOG_CHARACTERS = 4 << 20
LAST_LINES = 40

_HELD_CHARACTERS = 64 * 1024
_SHORTEST_SECRET = 4
"""Less than of a variable (`core.redaction`): whoever names a secret to a build leaves nothing to guess."""

_ESCAPE_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_INTERNAL = re.compile(r"\[internal\]|\[auth\]|\[context ")
_EXCLUDED = re.compile(r" --exclude=\S+")  # The Dockerfiles that we write have many of them; nobody reads them.
_EXIT = re.compile(r'process "(.*)" did not complete successfully: (.*)', re.DOTALL)


def redaction_for(request: BuildRequest) -> Redaction:
    """Hides what this build was trusted with: its secrets, and arguments that are secrets by their name or form."""
    secrets = ((name, value.decode(errors="replace")) for name, value in request.secrets.items())
    told = ((name, secret) for name, secret in secrets if len(secret.strip()) >= _SHORTEST_SECRET)
    return Redaction((*told, *secrets_in(request.build_args)))


@dataclass(slots=True)
class _Step:
    name: str
    number: int = 0
    """From 1 in the order in which people see them; 0 for a step that nobody was shown."""
    ended: bool = False
    started_at: dt.datetime | None = None
    held: str = ""
    skipping: bool = False
    last_lines: deque[str] = field(default_factory=lambda: deque(maxlen=LAST_LINES))


class BuildLog:
    """Feed it BuildKit's lines; it calls `emit` with ours and remembers what a failure has to say."""

    def __init__(self, emit: Callable[[str], None], redact: Redaction | None = None) -> None:
        self._emit = emit
        self._redact = redact or Redaction()
        self._steps: dict[str, _Step] = {}
        self._shown = 0
        self._characters = 0
        self._full = False
        self._tail: deque[str] = deque(maxlen=LAST_LINES)
        self.failed_step: str | None = None
        self.failure: str | None = None
        self.failed_lines: tuple[str, ...] = ()

    @property
    def last_lines(self) -> tuple[str, ...]:
        """The failed step's last lines, or else the log's."""
        return self.failed_lines or tuple(self._tail)

    def say(self, text: str) -> None:
        """A line of our own."""
        self._write(text)

    def feed(self, line: bytes) -> None:
        """Take one line of BuildKit's report. What is no report (a message of the client's) is kept as a failure."""
        try:
            report = json.loads(line)
        except ValueError:
            text = self.clean(line.decode(errors="replace")).strip()
            if text:
                self._write(text)
                self.failure = self.failure or text.removeprefix("error: ")
            return
        if not isinstance(report, dict):
            return
        for vertex in report.get("vertexes") or ():
            self._vertex(vertex)
        for piece in report.get("logs") or ():
            step = self._steps.get(piece.get("vertex", ""))
            if step is not None:
                self._output(step, base64.b64decode(piece.get("data") or "").decode(errors="replace"))

    def finish(self) -> None:
        """Show what was still waiting for the end of its line."""
        for step in self._steps.values():
            self._flush(step)

    def clean(self, text: str) -> str:
        """The text without secrets, terminal sequences and control characters; no longer than a line may be."""
        text = _CONTROL.sub("\ufffd", _ESCAPE_SEQUENCE.sub("", self._redact(text)))
        # Once more: a value that was split by the sequences just removed is whole now.
        text = self._redact(text)
        return text if len(text) <= LINE_CHARACTERS else text[:LINE_CHARACTERS] + " ... (line cut)"

    def _vertex(self, vertex: dict[str, Any]) -> None:
        digest = str(vertex.get("digest", ""))
        name = _EXCLUDED.sub("", str(vertex.get("name", "")))
        step = self._steps.get(digest)
        if step is None:
            step = self._steps[digest] = _Step(name)
        error = str(vertex.get("error") or "")
        quiet = _INTERNAL.match(name) is not None and not error
        if quiet:
            return
        if step.number == 0 and (vertex.get("started") or vertex.get("cached") or error):
            step.started_at = _moment(vertex.get("started"))
            self._shown += 1
            step.number = self._shown
            self._write(f"#{step.number} {name}")
        if vertex.get("cached") and not step.ended:
            step.ended = True
            self._write(f"#{step.number} CACHED")
        if vertex.get("completed") and not step.ended:
            step.ended = True
            self._flush(step)
            if error:
                self._fail(step, error)
            else:
                began, ended = step.started_at, _moment(vertex["completed"])
                took = f" {(ended - began).total_seconds():.1f}s" if began and ended else ""
                self._write(f"#{step.number} DONE{took}")

    def _fail(self, step: _Step, error: str) -> None:
        if "context canceled" in error:
            self._write(f"#{step.number} CANCELED")  # Another step failed; this one was only stopped.
            return
        match = _EXIT.search(error)
        reason = match[2] if match else error
        self._write(f"#{step.number} ERROR: {reason}")
        if self.failed_step is None:
            self.failed_step = self.clean(" ".join(step.name.split()))
            self.failure = self.clean(reason)
            self.failed_lines = tuple(step.last_lines)

    def _output(self, step: _Step, text: str) -> None:
        text = step.held + text
        *whole, step.held = text.split("\n")
        for line in whole:
            if step.skipping:
                step.skipping = False
                continue
            self._line(step, line)
        if len(step.held) > _HELD_CHARACTERS:
            # Shown up to its limit now; the rest of this line is dropped as it comes.
            if not step.skipping:
                self._line(step, step.held)
            step.held, step.skipping = "", True

    def _flush(self, step: _Step) -> None:
        if step.held and not step.skipping:
            self._line(step, step.held)
        step.held, step.skipping = "", False

    def _line(self, step: _Step, line: str) -> None:
        line = line.rstrip("\r")
        # A progress bar rewrites its line with carriage returns; its last state is what a reader wants.
        shown = self.clean(line.rsplit("\r", 1)[-1])
        step.last_lines.append(shown)
        self._write(f"#{step.number} {shown}")

    def _write(self, text: str) -> None:
        for line in text.split("\n"):
            shown = self.clean(line.rstrip())
            self._tail.append(shown)
            if self._full:
                continue
            self._characters += len(shown) + 1
            if self._characters > LOG_CHARACTERS:
                self._full = True
                shown = f"(the log is over {LOG_CHARACTERS >> 20} MiB; the rest of it is not shown)"
            self._emit(shown)


def _moment(text: object) -> dt.datetime | None:
    # BuildKit writes nanoseconds, which fromisoformat refuses.
    match = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d{1,6})?\d*(Z|[+-]\d\d:\d\d)", str(text))
    return None if match is None else dt.datetime.fromisoformat(f"{match[1]}{match[2] or ''}{match[3]}")
