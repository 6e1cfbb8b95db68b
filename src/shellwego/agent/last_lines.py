"""What did an instance say before it ended?

Its log's last lines, read once when it fails and told in every report until it starts again. The values of its secrets
are not among them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from shellwego.agent.log_reader import last_lines
from shellwego.agent.logs import LogStore
from shellwego.agent.report import printable
from shellwego.agent.state import AgentState
from shellwego.core.ids import InstanceId
from shellwego.core.redaction import Redaction

log = structlog.get_logger()

_LINES = 20
_LINE_CHARACTERS = 500


class LastLines:
    """The last lines of one node's instances that failed."""

    def __init__(self, state: AgentState, logs: LogStore) -> None:
        self._state, self._logs = state, logs
        self._lines: dict[InstanceId, list[str]] = {}

    def of(self, id: InstanceId) -> Sequence[str]:
        return self._lines.get(id, ())

    async def read(self, id: InstanceId) -> None:
        """Read them anew. When the log can't be read, what was read before stays."""
        spec = self._state.find_spec(id)
        if spec is None:  # Nobody is told of it any more.
            return
        redact = Redaction.of_config(spec.env)
        try:
            lines = await asyncio.to_thread(last_lines, self._logs, id, _LINES, redact)
        except OSError as error:
            log.warning("log.not_read", instance=id, error=repr(error))
            return
        self._lines[id] = [printable(line.text, _LINE_CHARACTERS) for line in lines]

    def forget(self, id: InstanceId) -> None:
        self._lines.pop(id, None)
