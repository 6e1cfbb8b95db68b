"""A store of a test's own."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.drivers.images.stores import PATIENCE

from shellwego.drivers.images.store import DirectoryImageStore


@pytest.fixture
def store(tmp_path: Path) -> DirectoryImageStore:
    return DirectoryImageStore(tmp_path / "store", patience=PATIENCE)
