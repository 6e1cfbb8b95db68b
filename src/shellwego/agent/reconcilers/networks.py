"""Is this node's network as it must be?

Keeps the data plane there (it is repaired when something was taken away), gives instances their places in it, and
clears places that belong to nobody. A namespace whose sandbox runs is never touched, whoever claims it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from ipaddress import IPv4Address

import structlog

from shellwego.core.errors import ShellWeGoError, StartFailed
from shellwego.core.ids import InstanceId
from shellwego.drivers.network.port import Attachment, NetworkDriver
from shellwego.kit.commands import CommandFailed
from shellwego.kit.faults import fault_point, reach

log = structlog.get_logger()

NODE_READY = fault_point("agent.network.node_ready")
ORPHAN_DETACHED = fault_point("agent.network.orphan_detached")


class Networks:
    """`owned` names every instance that may have a place here, None while that can't be known."""

    def __init__(self, driver: NetworkDriver, *, owned: Callable[[], Collection[InstanceId] | None]) -> None:
        self._driver, self._owned = driver, owned
        self._repairing = asyncio.Lock()
        self._ready = False
        self.problem = ""

    async def reconcile_once(self) -> None:
        """The data plane is whole, and no namespace is without an owner."""
        await self._ensure_node()
        before = self._owned()
        if before is None:
            return
        for id in await self._driver.observe():
            owned = self._owned()
            # Asked before and after the look, so that one being made at this moment is never taken for an orphan.
            if owned is None or id in owned or id in before:
                continue
            log.warning("network.orphan", instance=id)
            await self._driver.ensure_detached(id)
            await reach(ORPHAN_DETACHED)

    async def attach(self, id: InstanceId, address: IPv4Address) -> Attachment:
        """A place for a sandbox to start in. Raises StartFailed when the data plane can't be had."""
        try:
            if not self._ready:
                await self._ensure_node()
            return await self._driver.ensure_attached(id, address)
        except (OSError, CommandFailed, TimeoutError) as error:
            self._ready = False
            raise StartFailed(f"The node's network could not be prepared: {error}") from error

    async def _ensure_node(self) -> None:
        async with self._repairing:
            try:
                await self._driver.ensure_node()
            except (OSError, CommandFailed, TimeoutError, ShellWeGoError) as error:
                self._ready = False
                self.problem = f"The node's network can't be prepared: {error}"
                raise
            await reach(NODE_READY)
            self._ready, self.problem = True, ""
