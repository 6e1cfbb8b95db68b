"""Which events wake a controller?

Each names in its `_CONCERN` the kinds that concern it, or how they begin. All else passes it by: a controller that woke
for everything would look at the whole cloud whenever somebody signs in.
"""

from __future__ import annotations

from collections.abc import Collection

from shellwego.control.store.records import EventRecord


def concerning(events: Collection[EventRecord], kinds: tuple[str, ...]) -> list[EventRecord]:
    """Those of these kinds. A kind that ends with a dot means all that begin so."""
    return [event for event in events if event.kind.startswith(kinds)]
