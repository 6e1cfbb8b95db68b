"""What do we add to the start of an instance? Beside the same bundle under the bare runtime."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from pathlib import Path

from benches.measure import alternate, median
from benches.results import Row, ms
from benches.sandboxes import Program, sandboxes
from benches.world import Bench, CloudUnderTest
from shellwego.drivers.images.store import DirectoryImageStore

AIM = 1.3
TURNS = 3
EXAMPLES = {"flask": "Flask", "node": "Node"}
BARE = {"gvisor": "runsc run", "runc": "runc run"}


def run(bench: Bench) -> list[Row]:
    cloud = bench.cloud()
    for example in EXAMPLES:
        cloud.image(example)
    return asyncio.run(_run(bench, cloud))


async def _run(bench: Bench, cloud: CloudUnderTest) -> list[Row]:
    rows = []
    async with sandboxes(bench) as here:
        for kind in ("gvisor", "runc"):
            for example, title in EXAMPLES.items():
                program = await find_program(cloud, example)
                seen = await alternate(
                    bench.turns(TURNS),
                    {
                        "ours": partial(here.start, kind, program),
                        "bare": partial(here.start_bare, kind, program),
                    },
                )
                ours, bare = median(seen["ours"]), median(seen["bare"])
                bench.say(f"{title}, {kind}: {ms(ours)} of {ms(bare)}")
                rows.append(
                    Row(
                        f"instance start to first 200, {title}, {kind}",
                        ms(ours),
                        f"`{BARE[kind]}` {ms(bare)}",
                        f"{ours / bare:.2f}x",
                        f"< {AIM}x",
                        ours / bare < AIM,
                    )
                )
    return rows


async def find_program(cloud: CloudUnderTest, example: str) -> Program:
    """What the cloud runs for that example: its image, and the process of its instance's own bundle."""
    stored = await DirectoryImageStore(cloud.running.data / "images").ensure(cloud.image(example))
    instance = cloud.call("GET", f"/v1/instances?app=built-{example}")["items"][0]["id"]
    (config,) = Path("/run/shellwego").glob(f"{cloud.running.short}/*/*/sandboxes/{instance}/config.json")
    process = json.loads(config.read_text())["process"]
    return Program(
        rootfs=stored.rootfs,
        args=tuple(process["args"]),
        env=dict(pair.split("=", 1) for pair in process["env"]),
        cwd=process["cwd"],
        user=f"{process['user']['uid']}:{process['user']['gid']}",
        path="/",
    )
