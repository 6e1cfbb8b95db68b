"""How much is kept of what something said last, before it failed?"""

from __future__ import annotations

from collections.abc import Collection

MAXIMUM_LINES, MAXIMUM_CHARACTERS = 50, 2000


def cut_last_lines(lines: Collection[str]) -> tuple[str, ...]:
    """The last of the lines, each cut: enough to see why, and no more than a row of the database should hold."""
    return tuple(line[:MAXIMUM_CHARACTERS] for line in list(lines)[-MAXIMUM_LINES:])
