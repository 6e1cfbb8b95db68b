from __future__ import annotations

import os
from pathlib import Path

import pytest

from shellwego.kit.disks import life_of_mount, look_at_disk


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


def mounted(system: Path, at: Path, kind: str = "ext4") -> None:
    """What /sys shows of the file system of `at`, mounted just now."""
    number = at.stat().st_dev
    device, of_the_mount = system / f"devices/disk{number}", system / "fs" / kind / f"disk{number}"
    for folder in (device, system / "dev/block", of_the_mount):
        folder.mkdir(parents=True, exist_ok=True)
    link = system / f"dev/block/{os.major(number)}:{os.minor(number)}"
    link.unlink(missing_ok=True)
    link.symlink_to(device)


def test_the_next_mount_is_another_life(tmp_path: Path) -> None:
    """Whoever takes it for the same one believes files that never reached the disk."""
    mounted(tmp_path, tmp_path)
    first = life_of_mount(tmp_path, system=tmp_path)
    assert life_of_mount(tmp_path, system=tmp_path) == first
    (tmp_path / "fs/ext4").rename(tmp_path / "fs/before")  # So that its inode's number isn't given again.
    mounted(tmp_path, tmp_path)
    assert life_of_mount(tmp_path, system=tmp_path) != first


def test_a_file_system_whose_mounts_look_alike_lives_as_long_as_the_boot(tmp_path: Path) -> None:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert life_of_mount(tmp_path, system=tmp_path) == boot, "nothing is known of its device"
    mounted(tmp_path, tmp_path, kind="zfs")
    assert life_of_mount(tmp_path, system=tmp_path) == boot
