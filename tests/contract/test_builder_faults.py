"""What if the server dies in the middle of a build? The next one builds the same, and what was secret is gone."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from pathlib import Path

import pytest
from tests.contract.builder_world import fresh_prefix, real_builder, until_not_on_disk
from tests.images import busybox_layout
from tests.leaks import inventory

from shellwego.drivers.images.store import DirectoryImageStore
from shellwego.kit.faults import declared_points

pytestmark = pytest.mark.root


async def test_a_server_killed_at_any_step_of_a_build_leaves_nothing_that_stays(tmp_path: Path) -> None:
    """After each possible end, the next server builds the same source, and then nothing is left of either."""
    prefix = fresh_prefix()
    (tmp_path / "context").mkdir()
    store = DirectoryImageStore(tmp_path / "store")
    await store.import_layout(busybox_layout(tmp_path / "busybox"), name="base/busybox")
    points = sorted(point for point in declared_points() if point.startswith("builder."))
    assert len(points) >= 10
    digests: set[str] = set()
    for point in points:
        status, said = await _run_child(tmp_path, prefix, faults=f"{point}=exit")
        assert status == 137, f"the build doesn't pass {point}: {said}"
    for _ in range(2):
        status, said = await _run_child(tmp_path, prefix)
        assert status == 0, said
        digests.add(said.split()[-1])
    assert len(digests) == 1
    shutil.rmtree(Path("/run/shellwego") / prefix, ignore_errors=True)
    assert inventory(prefix, tmp_path) == []


@pytest.mark.parametrize("point", ["builder.built", "builder.imported"])
async def test_a_server_killed_with_a_secret_in_its_cache_leaves_none_to_the_next(tmp_path: Path, point: str) -> None:
    """What a step printed lies in BuildKit's own records until they are thrown away, and the one to do so is dead."""
    prefix, secret = fresh_prefix(), "correct-horse-battery-staple"
    (tmp_path / "context").mkdir()
    store = DirectoryImageStore(tmp_path / "store")
    await store.import_layout(busybox_layout(tmp_path / "busybox"), name="base/busybox")
    status, said = await _run_child(tmp_path, prefix, secret, faults=f"{point}=exit")
    assert status == 137, said
    assert secret not in said
    await real_builder(store, prefix, tmp_path).end_stale()  # As a server does when it starts.
    await until_not_on_disk(tmp_path, secret.encode())
    status, said = await _run_child(tmp_path, prefix)
    assert status == 0, said
    shutil.rmtree(Path("/run/shellwego") / prefix, ignore_errors=True)
    assert inventory(prefix, tmp_path) == []


async def _run_child(directory: Path, prefix: str, *secret: str, faults: str = "") -> tuple[int, str]:
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name("build_child.py")),
        str(directory),
        prefix,
        *secret,
        env={**os.environ, "SHELLWEGO_FAULTS": faults},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await child.communicate()
    return child.returncode or 0, said.decode()
