"""What do tests of a store look into?"""

from __future__ import annotations

from pathlib import Path

from shellwego.drivers.images.limits import Patience

PATIENCE = Patience(attempts=2, first_wait_seconds=0.01)
PARTS = ("blobs/sha256", "rootfs", "images", "names", "pins", "partial", "unpacking", "trash")


def contents(store: Path, *parts: str) -> list[str]:
    return [f"{part}/{path.name}" for part in parts or PARTS for path in (store / part).iterdir()]
