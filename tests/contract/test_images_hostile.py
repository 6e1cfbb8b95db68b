"""What only root and a real kernel can show of the image store: full disks, confinement, Docker's own formats."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.images import Layer, busybox_layout, digest_of, gzip_layer, tar_of, write_layout
from tests.registry import running_registry
from tests.scripted_registry import ScriptedRegistry

from shellwego.core.errors import DiskFull, ImageRefused
from shellwego.drivers.images.limits import ImageLimits, Patience
from shellwego.drivers.images.store import DirectoryImageStore

pytestmark = pytest.mark.root

MIB = 1024 * 1024
PATIENCE = Patience(attempts=2, first_wait_seconds=0.01)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB and 200 inodes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,nr_inodes=200", "test", disk], check=True)
    try:
        yield disk
    finally:
        gc.collect()  # A store that a caught error's traceback refers to may have a directory open.
        subprocess.run(["umount", disk], check=True)


def used(disk: Path) -> int:
    found = os.statvfs(disk)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


async def test_a_layer_that_does_not_fit_is_disk_full(small_disk: Path, tmp_path: Path) -> None:
    """A node that fills up must say so, and must not stay full because of us."""
    store = DirectoryImageStore(small_disk, patience=PATIENCE)
    good = await store.import_layout(write_layout(tmp_path / "good", [gzip_layer(tar_of({"a": "good"}))]))
    tar = tar_of({"random": os.urandom(20 * MIB)})
    large = write_layout(tmp_path / "large", [Layer("application/vnd.oci.image.layer.v1.tar", tar, digest_of(tar))])
    async with ScriptedRegistry().serving() as registry:
        registry.add(large, "app:1")
        with pytest.raises(DiskFull) as caught:
            await store.ensure(f"{registry.address}/app:1")
    assert caught.value.retryable
    with pytest.raises(DiskFull):
        await store.import_layout(large)
    assert used(small_disk) < MIB
    assert ((await store.ensure(good.digest)).rootfs / "a").read_text() == "good"


@pytest.mark.parametrize("content", [{"zeros": bytes(20 * MIB)}, {f"f{number}": "" for number in range(300)}])
async def test_an_image_that_does_not_fit_unpacked_is_disk_full(
    content: dict[str, bytes | str], small_disk: Path, tmp_path: Path
) -> None:
    """Bytes or inodes: either can run out, and neither may leave half an image."""
    store = DirectoryImageStore(small_disk, patience=PATIENCE)
    found = await store.import_layout(write_layout(tmp_path / "layout", [gzip_layer(tar_of(content))]))
    with pytest.raises(DiskFull):
        await store.ensure(found.digest)
    assert not list((small_disk / "rootfs").iterdir())
    assert not list((small_disk / "unpacking").iterdir())
    assert used(small_disk) < MIB


@pytest.mark.parametrize("format", ["oci", "v2s2"])
async def test_an_image_runs_whatever_format_it_was_pushed_in(format: str, tmp_path: Path) -> None:
    """`docker push` writes Docker's schema 2, buildah and BuildKit OCI; both are everywhere."""
    layout = busybox_layout(tmp_path / "busybox", cmd=("echo", "it runs"))
    with running_registry(tmp_path) as registry:
        reference = registry.push(layout, "format/test:1", format=format)
        image = await DirectoryImageStore(tmp_path / "store").ensure(reference)
    said = subprocess.run(
        ["chroot", image.rootfs, "/bin/sh", "-c", " ".join(image.config.cmd)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert said.stdout == "it runs\n"


async def test_umoci_and_we_unpack_the_same(tmp_path: Path) -> None:
    """A second opinion on owners, modes, links and whiteouts."""
    subprocess.run(["umoci", "init", "--layout", tmp_path / "oci"], check=True)
    subprocess.run(["umoci", "new", "--image", f"{tmp_path}/oci:app"], check=True, capture_output=True)
    for step in range(3):
        tree = tmp_path / f"tree{step}"
        tree.mkdir()
        for number in range(20):
            path = tree / f"d{number % 4}/e{number % 3}/f{number}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{step} {number}")
            os.chown(path, 1000 + number, 2000 + step)
            path.chmod(0o4755 if number % 5 == 0 else 0o640)
        (tree / "link").symlink_to(f"d{step}/../d0")
        os.link(tree / "d0/e0/f0", tree / f"hard{step}")
        layer = tmp_path / f"{step}.tar"
        subprocess.run(["tar", "--create", "--file", layer, "--directory", tree, "."], check=True)
        command = ["umoci", "raw", "add-layer", "--image", f"{tmp_path}/oci:app", layer]
        subprocess.run(command, check=True, capture_output=True)
    bundle = tmp_path / "bundle"
    subprocess.run(["umoci", "unpack", "--image", f"{tmp_path}/oci:app", bundle], check=True, capture_output=True)
    store = DirectoryImageStore(tmp_path / "store")
    image = await store.ensure((await store.import_layout(tmp_path / "oci")).digest)

    def seen(root: Path) -> dict[str, tuple[object, ...]]:
        found: dict[str, tuple[object, ...]] = {}
        first: dict[int, str] = {}
        for path in sorted(root.rglob("*")):
            status, name = path.lstat(), str(path.relative_to(root))
            content = path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else None
            facts = (status.st_mode, status.st_uid, status.st_gid, int(status.st_mtime), content)
            # Not the number of links: our trees share their files.
            found[name] = facts if not path.is_file() else (*facts, first.setdefault(status.st_ino, name))
        return found

    assert seen(image.rootfs) == seen(bundle / "rootfs")


CONFINED = """
import encodings.idna, json, os, socket, stat, sys
from pathlib import Path
from shellwego.drivers.images.confine import confine
root = Path(sys.argv[1])
confine(root)
def attempt(work):
    try:
        return repr(work())
    except OSError as error:
        return error.strerror
print(json.dumps({
    "files": attempt(lambda: sorted(os.listdir("/"))),
    "up": attempt(lambda: sorted(os.listdir("/../.."))),
    "chroot": attempt(lambda: os.chroot("/")),
    "device": attempt(lambda: os.mknod("/null", 0o600 | stat.S_IFCHR, os.makedev(1, 3))),
    "network": attempt(lambda: socket.create_connection(("127.0.0.1", int(sys.argv[2])), timeout=5)),
    "kill": attempt(lambda: os.kill(int(sys.argv[3]), 0)),
    "setuid": attempt(lambda: os.setuid(1000)),
    "own": attempt(lambda: (os.mkdir("/made"), os.chown("/made", 1234, 1234), os.chmod("/made", 0o4755))),
}))
"""


async def test_the_unpacker_could_do_nothing_else_if_it_were_taken_over(tmp_path: Path) -> None:
    """Defence in depth: the extractor's own rules are not the last line."""
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "outside").touch()
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    other = await asyncio.create_subprocess_exec("setpriv", "--reuid=65534", "--clear-groups", "sleep", "60")
    try:
        port = server.sockets[0].getsockname()[1]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", CONFINED, str(root), str(port), str(other.pid)), stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
        assert json.loads(out) == {
            "files": "[]",
            "up": "[]",
            "chroot": "Operation not permitted",
            "device": "Operation not permitted",
            "network": "Network is unreachable",
            "kill": "Operation not permitted",
            "setuid": "Operation not permitted",
            "own": "(None, None, None)",
        }
    finally:
        server.close()
        await server.wait_closed()
        other.kill()
        await other.wait()


async def test_too_many_entries_are_refused(tmp_path: Path) -> None:
    """Inodes are shared by the whole node; a million of them in one image is an attack."""
    assert ImageLimits().entries < 1_000_000
    layout = write_layout(tmp_path / "many", [gzip_layer(tar_of({f"f{number}": "" for number in range(3_000)}))])
    store = DirectoryImageStore(tmp_path / "store", limits=ImageLimits(entries=2_999))
    found = await store.import_layout(layout)
    with pytest.raises(ImageRefused, match="2999 entries"):
        await store.ensure(found.digest)
    assert not list((tmp_path / "store/unpacking").iterdir())
    assert not list((tmp_path / "store/blobs/sha256").iterdir())


async def test_a_bomb_is_refused(tmp_path: Path) -> None:
    """1000:1 is what deflate can do, and what no file system of a real program needs."""
    store = DirectoryImageStore(tmp_path / "store")
    found = await store.import_layout(
        write_layout(tmp_path / "bomb", [gzip_layer(tar_of({"zeros": bytes(400 * MIB)}))])
    )
    with pytest.raises(ImageRefused, match="200 times"):
        await store.ensure(found.digest)
    assert not list((tmp_path / "store/unpacking").iterdir())
