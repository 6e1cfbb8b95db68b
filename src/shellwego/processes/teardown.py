"""How does a cloud leave a machine as it found it?

`stop_all` ends what runs: proxy, sandboxes, networks, builder; all that was stored stays, and the next `up` brings
every app back. `remove_all` removes the data too. Both work from any state, also after a SIGKILL, and twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from pathlib import Path

import structlog

from shellwego.agent.node import stop_everything
from shellwego.kit.faults import fault_point, reach
from shellwego.processes.agent import make_drivers
from shellwego.processes.cloud import RUNTIME_ROOT, Cloud
from shellwego.processes.edge import stop_proxy
from shellwego.processes.engines_found import Engines
from shellwego.processes.node_parts import edge_options
from shellwego.processes.parts import make_builder, make_images

log = structlog.get_logger()

_PROXY_STOPPED = fault_point("down.proxy_stopped")
_BUILDER_STOPPED = fault_point("down.builder_stopped")
_SANDBOXES_STOPPED = fault_point("down.sandboxes_stopped")


async def stop_all(cloud: Cloud, engines: Engines) -> None:
    """End all that runs of the cloud: the proxy first, so that nobody meets an app that is going."""
    await stop_proxy(edge_options(cloud, engines))
    await reach(_PROXY_STOPPED)
    builder = make_builder(cloud, engines, make_images(cloud))
    await builder.end_stale()
    await builder.close()
    await reach(_BUILDER_STOPPED)
    await stop_everything(cloud.agent, make_drivers(cloud, engines))
    await reach(_SANDBOXES_STOPPED)
    await asyncio.to_thread(_clear_runtime, cloud.run)


async def remove_all(cloud: Cloud, engines: Engines, *, keep_data: bool) -> None:
    """The same, then the data directory."""
    await stop_all(cloud, engines)
    if not keep_data:
        await asyncio.to_thread(shutil.rmtree, cloud.data)


def _clear_runtime(run: Path) -> None:
    """Remove sockets and what was on tmpfs; a directory that something is still mounted in stays, and is named."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if line.split()[4].startswith(f"{run}/"):
            log.warning("down.still_mounted", path=line.split()[4])
            return
    shutil.rmtree(run, ignore_errors=True)
    with contextlib.suppress(OSError):
        RUNTIME_ROOT.rmdir()  # Only when no other cloud is there.
