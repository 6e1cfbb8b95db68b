from __future__ import annotations

import os
from pathlib import Path

import pytest

from shellwego.kit.disks import look_at_disk


@pytest.mark.parametrize(
    ("options", "stopped"),
    [("rw", False), ("rw,errors=remount-ro", False), ("ro", True), ("rw,abort,emergency_ro", True), ("shutdown", True)],
)
def test_a_disk_that_the_kernel_stopped_writing_to_is_read_only(tmp_path: Path, options: str, stopped: bool) -> None:
    """statvfs(2) calls it writable; an operator would look for the cause elsewhere."""
    device = tmp_path.stat().st_dev
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text(
        "22 1 0:99 / /proc rw shared:5 - proc proc ro\n"
        f"25 1 {os.major(device)}:{os.minor(device)} / /data rw,relatime shared:1 - ext4 /dev/vda {options}\n"
    )
    disk = look_at_disk(tmp_path, mountinfo=mountinfo)
    assert disk.read_only is stopped
    assert 0 < disk.free_bytes <= disk.size_bytes


def test_a_disk_that_can_not_be_reached_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        look_at_disk(tmp_path / "gone")
