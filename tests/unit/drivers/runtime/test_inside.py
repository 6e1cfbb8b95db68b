"""A look into an image never leaves it, and says in a user's words what is wrong."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from shellwego.core.errors import StartFailed
from shellwego.drivers.runtime.inside import check_command, find_inside, is_empty_inside, read_inside
from shellwego.drivers.runtime.mounts import make_points
from shellwego.drivers.runtime.users import User, find_user, resolve_user

PASSWD = "root:x:0:0:root:/root:/bin/sh\nnode:x:1000:1000::/home/node:/bin/sh\nodd:x:abc:1::/:\nshort\n"
GROUP = "root:x:0:\nnode:x:1000:\nstaff:x:50:node,odd\naudio:x:29:node\n"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    root = tmp_path / "image"
    for folder in ("bin", "etc", "app"):
        (root / folder).mkdir(parents=True)
    (tmp_path / "secret").write_text("the host's")
    (root / "etc/out").symlink_to("../../../../../.." + str(tmp_path / "secret"))
    (root / "etc/absolute").symlink_to("/app")
    program(root / "bin/ok", b"#!/bin/sh\n")
    program(root / "bin/sh", b"")
    return root


def program(path: Path, content: bytes, mode: int = 0o755) -> None:
    path.write_bytes(content)
    path.chmod(mode)


@pytest.mark.parametrize(
    ("text", "user"),
    [
        ("", User(0, 0, (), "/root")),
        ("node", User(1000, 1000, (29, 50), "/home/node")),
        ("1000", User(1000, 1000, (29, 50), "/home/node")),
        ("node:staff", User(1000, 50, (), "/home/node")),
        ("node:7", User(1000, 7, (), "/home/node")),
        ("4242", User(4242, 0, (), "/")),
        ("4242:4343", User(4242, 4343, (), "/")),
        ("0:0", User(0, 0, (), "/root")),
    ],
)
def test_users_are_read_as_docker_reads_them(text: str, user: User) -> None:
    assert resolve_user(text, passwd=PASSWD, group=GROUP) == user


@pytest.mark.parametrize("text", ["nobody", "node:nobody", "odd", "99999999999", "-1", "1000:-5", "../x"])
def test_users_that_can_not_be(text: str) -> None:
    with pytest.raises(StartFailed):
        resolve_user(text, passwd=PASSWD, group=GROUP)


def test_an_image_without_a_list_of_users_has_numbers(image: Path) -> None:
    assert find_user(image, "12:34") == User(12, 34)


def test_links_lead_nowhere_outside(image: Path) -> None:
    """A stranger's link to /etc/shadow must not be read by us, who are root."""
    with pytest.raises(FileNotFoundError):
        read_inside(image, "/etc/out")
    assert find_inside(image, "/etc/absolute") is not None
    assert find_inside(image, "/etc/absolute")[0] == "/app"  # type: ignore[index]
    assert find_inside(image, "/../../..")[0] == "/"  # type: ignore[index]


def test_a_fifo_in_an_image_does_not_hold_us_up(image: Path) -> None:
    os.mkfifo(image / "etc/passwd")
    assert find_user(image, "5") == User(5, 0)


def test_empty_folders(image: Path) -> None:
    assert is_empty_inside(image, "/app")
    assert is_empty_inside(image, "/nowhere")
    assert not is_empty_inside(image, "/bin")


def test_commands_that_can_run(image: Path) -> None:
    check_command(image, ("ok",), {"PATH": "/nowhere:/bin"}, "/")
    check_command(image, ("/bin/ok",), {}, "/")
    check_command(image, ("./ok",), {}, "/bin")
    check_command(image, ("bin/ok",), {}, "/")


@pytest.mark.parametrize(
    ("content", "mode", "why"),
    [
        (b"#!/usr/bin/bash\n", 0o755, "asks for '/usr/bin/bash'"),
        (b"#!/bin/sh\r\necho\r\n", 0o755, "Windows line ends"),
        (b"#!/bin/sh\n", 0o644, "not executable"),
        (
            b"\x7fELF\x02\x01" + bytes(12) + (183 if platform.machine() == "x86_64" else 62).to_bytes(2, "little"),
            0o755,
            "is built for",
        ),
    ],
)
def test_commands_that_can_not(image: Path, content: bytes, mode: int, why: str) -> None:
    program(image / "app/start", content, mode)
    with pytest.raises(StartFailed, match=why):
        check_command(image, ("/app/start",), {}, "/")


def test_points_follow_the_images_folders_but_not_its_files(image: Path, tmp_path: Path) -> None:
    """A folder that is a link in the image stays one; a file that is a link is covered, not followed."""
    (image / "etc/resolv.conf").symlink_to("../run/stub")
    (image / "app").chmod(0o750)
    points = tmp_path / "points"
    real = make_points(points, image, ["/etc/resolv.conf", "/etc/absolute/new/file", "etc/../x"])
    assert real == {
        "/etc/resolv.conf": "/etc/resolv.conf",
        "/etc/absolute/new/file": "/app/new/file",
        "etc/../x": "/x",
    }
    assert (points / "etc/resolv.conf").is_file()
    assert (points / "app/new/file").is_file()
    assert (points / "app").stat().st_mode & 0o777 == 0o750
