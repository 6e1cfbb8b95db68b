"""What do tests of builders stand on? A builder with a store and a base image; leaving it checks that nothing stays."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import json
import secrets
import shutil
import tarfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import zstandard
from tests.engines import engine
from tests.images import busybox_layout
from tests.leaks import host_network, inventory

from shellwego.core.ids import DeploymentId, OrganisationId
from shellwego.drivers.images.build_fake import FakeBuilder
from shellwego.drivers.images.builder import BuildKitBuilder
from shellwego.drivers.images.port import Builder, BuildLimits, BuildRequest, ImageStore
from shellwego.drivers.images.store import DirectoryImageStore

CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
ACME, OTHER = OrganisationId("org_aaaaaaaaaaaaaaaaaaaa"), OrganisationId("org_bbbbbbbbbbbbbbbbbbbb")
LIMITS = BuildLimits(memory_mib=1024, cpu_millis=2000, disk_mib=1024, seconds=120)
SIMPLE = "FROM base\nCOPY . /app\nRUN if test -e /app/FAIL; then cat /app/FAIL; exit 1; fi\n"
WAITING = SIMPLE + "RUN echo waiting; while test -e /app/WAIT; do sleep 0.1; done\n"


class World:
    """A builder, its store and a base image; `build` is one build from files given as text."""

    def __init__(self, builder: Builder, store: ImageStore, base: str, prefix: str, directory: Path) -> None:
        self.builder, self.store, self.base, self.prefix, self.directory = builder, store, base, prefix, directory
        self.log: list[str] = []

    def request(self, dockerfile: str = SIMPLE, *, context: Path | None = None, **changes: object) -> BuildRequest:
        if context is None:
            context = self.context()
        settings: dict[str, object] = {
            "id": DeploymentId(f"dep_{secrets.token_hex(10)}"),
            "organisation": ACME,
            "bases": {"base": self.base},
            "limits": LIMITS,
        }
        return BuildRequest(context=context, dockerfile=dockerfile, **(settings | changes))  # type: ignore[arg-type]

    def context(self, **files: str) -> Path:
        context = self.directory / f"source-{secrets.token_hex(4)}"
        context.mkdir()
        for name, content in files.items():
            (context / name).write_text(content)
        return context

    async def build(self, dockerfile: str = SIMPLE, **changes: object) -> str:
        self.log = []
        return (await self.builder.build(self.request(dockerfile, **changes), on_log=self.log.append)).digest

    async def files(self, digest: str) -> dict[str, bytes]:
        """Every regular file of the image's layers, by path; later layers win."""
        layout = self.directory / f"layout-{secrets.token_hex(4)}"
        await self.store.export_layout(digest, layout)
        found: dict[str, bytes] = {}
        for layer in layers(layout):
            with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
                for member in tar:
                    content = tar.extractfile(member) if member.isfile() else None
                    found[member.name.removeprefix("./")] = content.read() if content else member.linkname.encode()
        return found


def layers(layout: Path) -> Iterator[bytes]:
    def blob(digest: str) -> bytes:
        return (layout / "blobs" / "sha256" / digest.removeprefix("sha256:")).read_bytes()

    manifest = json.loads(blob(json.loads((layout / "index.json").read_text())["manifests"][0]["digest"]))
    for layer in manifest["layers"]:
        content = blob(layer["digest"])
        if layer["mediaType"].endswith("zstd"):
            content = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(content)).read()
        elif layer["mediaType"].endswith("gzip"):
            content = gzip.decompress(content)
        yield content


def real_builder(store: ImageStore, prefix: str, directory: Path, **changes: object) -> BuildKitBuilder:
    settings: dict[str, object] = {
        "directory": directory / "builder",
        "runtime_directory": Path("/run/shellwego") / prefix,
        "prefix": prefix,
        "store": store,
        "buildkitd": engine("buildkitd"),
        "buildctl": engine("buildctl"),
        "runsc": engine("runsc"),
        "runc": engine("runc"),
        "extra_ca": CERTIFICATES,
        "cache_mib": 1024,
    }
    return BuildKitBuilder(**(settings | changes))  # type: ignore[arg-type]


def fresh_prefix() -> str:
    return "".join(secrets.choice("abcdefghijklmnopqrstuvwxyz234567") for _ in range(8))


@contextlib.asynccontextmanager
async def a_world(kind: str, directory: Path) -> AsyncIterator[World]:
    prefix = fresh_prefix()
    store = DirectoryImageStore(directory / "store")
    base = await store.import_layout(busybox_layout(directory / "busybox"))
    builder: Builder = FakeBuilder(store) if kind == "fake" else real_builder(store, prefix, directory)
    before = host_network()
    made = World(builder, store, base.digest, prefix, directory)
    try:
        yield made
    finally:
        await made.builder.close()
        shutil.rmtree(Path("/run/shellwego") / prefix, ignore_errors=True)
    assert inventory(prefix, directory) == []
    assert host_network() == before


async def until_not_on_disk(directory: Path, secret: bytes) -> None:
    """BuildKit's own records hold what steps printed until they are thrown away, and ext4 frees a moment later."""
    async with asyncio.timeout(60):
        while True:
            grep = await asyncio.create_subprocess_exec(
                "grep", "-rlaF", "-D", "skip", "-e", secret.decode(), str(directory), stdout=asyncio.subprocess.PIPE
            )
            if not (await grep.communicate())[0]:
                return
            await asyncio.sleep(0.5)
