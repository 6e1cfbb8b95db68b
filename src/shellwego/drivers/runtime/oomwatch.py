"""Who ends a sandbox that ran out of memory?

The kernel kills one process of the group. In gVisor that may be any of the sandbox's parts, and what is left can hang
for ever with the app neither alive nor dead; so the whole sandbox ends at once. Version 2 of control groups does that
in the kernel (memory.oom.group). For version 1 we wait on the kernel's event, which costs a descriptor and no CPU.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable

from shellwego.drivers.runtime.cgroups import CGroups


class OutOfMemoryWatch:
    """Calls `act` with a group's name when that group runs out of memory. Lives in the running event loop."""

    def __init__(self, groups: CGroups, act: Callable[[str], None]) -> None:
        self._groups = groups
        self._act = act
        self._events: dict[str, int | None] = {}

    def ensure_watched(self, name: str) -> None:
        """Also after our own restart: the kernel's events end with the process that asked for them."""
        if name in self._events:
            return
        event = self._events[name] = self._groups.watch_out_of_memory(name)
        if event is not None:
            asyncio.get_running_loop().add_reader(event, self._happened, name)
        if self._groups.out_of_memory_kills(name):  # Asked last, so that none falls in between.
            self._happened(name)

    def forget(self, name: str) -> None:
        """To be called before the group is removed, which the kernel reports as an event too."""
        event = self._events.pop(name, None)
        if event is not None:
            with contextlib.suppress(RuntimeError):  # No loop any more: nobody listens then.
                asyncio.get_running_loop().remove_reader(event)
            os.close(event)

    def close(self) -> None:
        for name in list(self._events):
            self.forget(name)

    def _happened(self, name: str) -> None:
        self.forget(name)
        self._act(name)
