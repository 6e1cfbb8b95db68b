"""Who hears of an event, and is it sure to?

Events are written with their effects into the outbox. This loop hands each to the bus in order and marks it published
after that, so a crash in between repeats an event and never loses one.
"""

from __future__ import annotations

from shellwego.control.store.unit_of_work import Store
from shellwego.drivers.bus.port import Bus, BusMessage
from shellwego.kit.faults import fault_point, reach

_PUBLISHED = fault_point("server.outbox.published")
BATCH = 200


class OutboxRelay:
    def __init__(self, store: Store, bus: Bus) -> None:
        self._store, self._bus = store, bus

    async def once(self) -> None:
        """Publish all that waits."""
        while True:
            async with self._store.reading() as work:
                events = await work.for_the_cloud().outbox.unpublished(limit=BATCH)
            if not events:
                return
            for event in events:
                await self._bus.publish(
                    BusMessage(event.kind, event.subject, event.payload, event.organisation, event.seq)
                )
            await reach(_PUBLISHED)
            # Lost, it repeats events, as any crash here does.
            async with self._store.writing(durable=False) as work:
                await work.for_the_cloud().outbox.mark_published([event.seq for event in events], work.now)
