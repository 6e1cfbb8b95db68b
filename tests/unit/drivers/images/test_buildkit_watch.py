"""A build that is about to take the disk's last room is ended before others miss it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from shellwego.drivers.images import buildkit_watch
from shellwego.drivers.images.buildkit_cgroup import BuildGroup


async def test_a_build_is_ended_while_there_is_still_room_for_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    free = iter([900, 300, buildkit_watch.KEPT_FREE_MIB, buildkit_watch.KEPT_FREE_MIB - 1])
    monkeypatch.setattr(buildkit_watch, "free_mib", lambda _: next(free))
    monkeypatch.setattr(buildkit_watch, "_LOOK_SECONDS", 0.0)
    ended = asyncio.Event()
    told_before: list[bool] = []
    group: Any = SimpleNamespace(kill=lambda: told_before.append(ended.is_set()))
    await buildkit_watch.watch_room(cast("BuildGroup", group), tmp_path, ended)
    assert told_before == [True], "whoever sees the build end must find the reason"
    assert list(free) == []
