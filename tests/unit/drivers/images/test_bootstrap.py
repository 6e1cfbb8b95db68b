"""Is making the base images, which takes minutes, something that may be killed?

Debian's own tools and the builder are stood in for: what they make is a file and an image like any other.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest
from tests.images import gzip_layer, tar_of, write_layout

import shellwego.drivers.images.bootstrap  # noqa: F401  declares its points
from shellwego.kit.faults import declared_points

STATUS = "Package: libc6\nStatus: install ok installed\nVersion: 2.36\n\n"
PROGRAM = """
import asyncio, sys
from pathlib import Path
from shellwego.drivers.images import bootstrap
from shellwego.drivers.images.store import DirectoryImageStore
from shellwego.kit.commands import Output

place = Path(sys.argv[1])
store = DirectoryImageStore(place / "store")

async def run_command(command, **_):
    if "mmdebstrap" in command:
        Path(command[-2]).write_bytes((place / "debian.tar").read_bytes())
    return Output("", "", 0)

class Builder:
    async def build(self, request, *, on_log):
        return await store.import_layout(place / "built")

bootstrap.run_command = run_command
names = ("base/debian", "base/static")
asyncio.run(bootstrap.bootstrap_images(
    store=store, builder=Builder(), directory=place / "kept", on_progress=lambda words: None, names=names
))
for name in names:
    assert asyncio.run(store.resolve(name)).config.labels["org.shellwego.packages"] == "libc6=2.36"
"""
POINTS = sorted(point for point in declared_points() if point.startswith("bootstrap."))


@pytest.mark.parametrize("point", POINTS)
async def test_killed_at_any_step_it_goes_on(point: str, tmp_path: Path) -> None:
    """The next try makes what is missing, and nothing half made is left or taken for whole."""
    tar = tar_of({"var/lib/dpkg/status": STATUS, "bin/sh": "not a shell"})
    (tmp_path / "debian.tar").write_bytes(tar)
    write_layout(tmp_path / "built", [gzip_layer(tar)], cmd=("/bin/sh",))
    assert await run(tmp_path, f"{point}=exit") == 137, "the point is passed"
    assert await run(tmp_path) == 0
    kept = {path.name.rpartition("-")[0] for path in (tmp_path / "kept").iterdir() if path.name != ".lock"}
    assert kept == {"base-debian", "base-static"}


async def run(place: Path, faults: str = "") -> int:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM, str(place)),
        env={"PATH": os.environ["PATH"], "SHELLWEGO_FAULTS": faults},
    )
    async with asyncio.timeout(60):
        return await process.wait()
