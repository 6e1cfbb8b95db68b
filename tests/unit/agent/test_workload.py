"""What a sandbox is started with, from a stranger's image."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from tests.unit.agent.factories import ins, spec

from shellwego.agent.workload import DEFAULT_PATH, find_home, make_workload, read_inside
from shellwego.core.errors import StartFailed
from shellwego.drivers.images.port import ImageConfig, StoredImage
from shellwego.drivers.network.port import Attachment
from shellwego.drivers.runtime.port import Workload

CONFIG = ImageConfig(
    entrypoint=("/entry",),
    cmd=("serve",),
    env={"COLOUR": "red", "PORT": "1", "PATH": "/own"},
    user="web",
    working_dir="/srv",
)


def workload(rootfs: Path, config: ImageConfig = CONFIG, *, extra_ca: str = "", **changes: Any) -> Workload:
    return make_workload(
        spec("b", **changes),
        StoredImage("sha256:0", rootfs, config),
        Attachment(ins("b"), IPv4Address("100.96.0.7"), Path("/run/netns/x")),
        nameservers=(IPv4Address("10.0.2.3"),),
        log_path=Path("/log"),
        extra_ca=extra_ca,
    )


def test_the_release_wins_over_the_image_and_ours_over_the_image_too(tmp_path: Path) -> None:
    made = workload(tmp_path, command=[])
    assert made.args == ("/entry", "serve")
    assert made.env["COLOUR"] == "blue"
    assert made.env["PORT"] == "8080"
    assert made.env["PATH"] == "/own"
    assert made.env["SHELLWEGO_RELEASE"] == "v1"
    assert (made.user, made.cwd) == ("web", "/srv")
    assert b"100.96.0.7\thello-" in made.files["/etc/hosts"]
    assert made.files["/etc/hostname"].decode().strip() == made.hostname


def test_a_command_of_the_release_stands_alone(tmp_path: Path) -> None:
    """As in a Procfile: the image's entrypoint must not swallow it."""
    assert workload(tmp_path, command=["/bin/sh", "-c", "a | b"]).args == ("/bin/sh", "-c", "a | b")


def test_an_image_without_a_command_says_so(tmp_path: Path) -> None:
    with pytest.raises(StartFailed, match="names no command"):
        workload(tmp_path, ImageConfig(), command=[])


def test_an_image_that_says_nothing_gets_what_every_program_expects(tmp_path: Path) -> None:
    made = workload(tmp_path, ImageConfig(), runtime="gvisor-host-network")
    assert made.env["PATH"] == DEFAULT_PATH
    assert made.env["HOME"] == "/root"
    assert (made.user, made.cwd, made.host_sockets) == ("0:0", "/", True)


@pytest.mark.parametrize(
    ("user", "home"), [("web", "/srv/web"), ("1000:5", "/srv/web"), ("", "/root"), ("7", "/"), ("odd", "/")]
)
def test_home_is_as_the_image_has_it(tmp_path: Path, user: str, home: str) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_bytes(b"root:x:0:0::/root:/bin/sh\nweb:x:1000:5::/srv/web:/bin/sh\nodd:x:\n\xff\n")
    assert find_home(ImageConfig(user=user), tmp_path) == home


def test_the_operators_certificates_are_added_to_the_images_own(tmp_path: Path) -> None:
    bundle = tmp_path / "etc/ssl/certs/ca-certificates.crt"
    bundle.parent.mkdir(parents=True)
    bundle.write_text("THEIRS\n")
    made = workload(tmp_path, extra_ca="OURS")
    assert made.files["/etc/ssl/certs/ca-certificates.crt"] == b"THEIRS\nOURS\n"
    assert made.env["NODE_EXTRA_CA_CERTS"] == "/etc/ssl/certs/ca-certificates.crt"
    none = workload(tmp_path / "empty", extra_ca="OURS")
    assert none.files["/etc/ssl/certs/ca-certificates.crt"] == b"OURS\n"
    assert "SSL_CERT_FILE" not in workload(tmp_path).env


def test_links_of_an_image_lead_nowhere_but_into_it(tmp_path: Path) -> None:
    """A hostile image must not have the host's files copied into its sandbox."""
    secret = tmp_path / "secret"
    secret.write_text("of the host")
    rootfs = tmp_path / "rootfs"
    (rootfs / "etc").mkdir(parents=True)
    (rootfs / "inside").write_text("of the image")
    for name, target in {
        "absolute": str(secret),
        "climbing": "../../secret",
        "good": "/inside",
        "up": "../../../../inside",
        "loop": "loop",
    }.items():
        (rootfs / "etc" / name).symlink_to(target)
    (rootfs / "dir").symlink_to(tmp_path)
    (rootfs / "folder").mkdir()
    (rootfs / "huge").write_bytes(b"x" * (5 << 20))
    for path in ("/etc/absolute", "/etc/climbing", "/etc/loop", "/dir/secret", "/folder", "/huge", "/none"):
        assert read_inside(rootfs, path) == b"", path
    assert read_inside(rootfs, "/etc/good") == b"of the image"
    assert read_inside(rootfs, "/etc/up") == b"of the image"
    assert read_inside(rootfs, "/../../inside") == b"of the image"
