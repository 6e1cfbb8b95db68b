"""What of a report is news?

A report is whole, and of a thousand instances that crash again and again each tells of a few. To look at them all,
twice a second, would cost those who use the API more than everything else that a server does.
"""

from __future__ import annotations

from shellwego.protocol.messages import InstanceReport, Report

WHOLE_SECONDS = 5.0
"""
At the latest after this all are looked at again: what we know of an instance is also changed by others than its agent.
"""

MOST_NEWS = 100
"""With more than these, one question for all of a node's instances is as good as one for each number of them."""


class Told:
    """What one agent has told on one connection, and is written down."""

    def __init__(self) -> None:
        self._report: Report | None = None
        self._known: dict[str, InstanceReport] = {}
        self._whole_at = 0.0

    def news(self, report: Report, now: float) -> list[InstanceReport] | None:
        """What was not told before, or None when all must be looked at. `now` is monotonic, in seconds."""
        before = self._report
        if (
            before is None
            # An assignment was carried out in between: of which instances a report counts may have changed.
            or report.generation != before.generation
            or report.unclaimed != before.unclaimed
            or now - self._whole_at >= WHOLE_SECONDS
        ):
            return None
        news = [seen for seen in report.instances if self._known.get(seen.id) != seen]
        return news if len(news) <= MOST_NEWS else None

    def is_written(self, report: Report, now: float, *, whole: bool) -> None:
        """Call this when all that was news has been committed, and not before: what is lost must be news again."""
        self._report = report
        self._known = {seen.id: seen for seen in report.instances}
        if whole:
            self._whole_at = now
