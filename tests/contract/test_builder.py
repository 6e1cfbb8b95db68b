"""Does every builder keep the promises of its port, and does the real one keep its walls?"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator, Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import pytest_asyncio
import zstandard
from tests.engines import engine
from tests.images import busybox_layout
from tests.leaks import host_network, inventory

from shellwego.core.buildplan import plan_build
from shellwego.core.dockerfiles import base_names
from shellwego.core.errors import BuildFailed, InvalidField
from shellwego.core.ids import DeploymentId, OrganisationId
from shellwego.drivers.engines.places import install_directory
from shellwego.drivers.images.bootstrap import bootstrap_images, default_mappings
from shellwego.drivers.images.build_fake import FakeBuilder
from shellwego.drivers.images.builder import BuildKitBuilder
from shellwego.drivers.images.port import Builder, BuildLimits, BuildRequest, ImageStore
from shellwego.drivers.images.source_files import read_source_files
from shellwego.drivers.images.store import DirectoryImageStore
from shellwego.kit.faults import declared_points

pytestmark = pytest.mark.asyncio(loop_scope="module")

EXAMPLES = Path(__file__).parents[2] / "examples"
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
        for layer in _layers(layout):
            with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
                for member in tar:
                    content = tar.extractfile(member) if member.isfile() else None
                    found[member.name.removeprefix("./")] = content.read() if content else member.linkname.encode()
        return found


def _layers(layout: Path) -> Iterator[bytes]:
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


def _real_builder(store: ImageStore, prefix: str, directory: Path, **changes: object) -> BuildKitBuilder:
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


def _fresh_prefix() -> str:
    return "".join(secrets.choice("abcdefghijklmnopqrstuvwxyz234567") for _ in range(8))


@contextlib.asynccontextmanager
async def _world(kind: str, directory: Path) -> AsyncIterator[World]:
    prefix = _fresh_prefix()
    store = DirectoryImageStore(directory / "store")
    base = await store.import_layout(busybox_layout(directory / "busybox"))
    builder: Builder = FakeBuilder(store) if kind == "fake" else _real_builder(store, prefix, directory)
    before = host_network()
    made = World(builder, store, base.digest, prefix, directory)
    try:
        yield made
    finally:
        await made.builder.close()
        shutil.rmtree(Path("/run/shellwego") / prefix, ignore_errors=True)
    assert inventory(prefix, directory) == []
    assert host_network() == before


@pytest_asyncio.fixture(
    params=["fake", pytest.param("buildkit", marks=pytest.mark.root)], scope="module", loop_scope="module"
)
async def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with _world(request.param, tmp_path_factory.mktemp("builds")) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def real(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with _world("buildkit", tmp_path_factory.mktemp("builds")) as made:
        yield made


class TestBuilderContract:
    async def test_a_source_becomes_an_image_of_the_store(self, world: World) -> None:
        digest = await world.build(context=world.context(hello="world"))
        assert (await world.store.resolve(digest)).digest == digest
        assert (await world.files(digest))["app/hello"] == b"world"

    async def test_the_log_arrives_and_names_what_stands_in_for_a_base(self, world: World) -> None:
        await world.build(context=world.context())
        assert f"# base is served by this cloud's image {world.base}" in world.log
        assert any("COPY . /app" in line for line in world.log)

    async def test_an_unchanged_source_is_the_same_image(self, world: World) -> None:
        """A redeploy of the same code must not look like a new version."""
        context = world.context(hello="same")
        assert await world.build(context=context) == await world.build(context=context)
        assert await world.build(context=world.context(hello="other")) != await world.build(context=context)

    async def test_a_failed_build_says_why_with_its_last_lines(self, world: World) -> None:
        with pytest.raises(BuildFailed) as failure:
            await world.build(context=world.context(FAIL="no such package: leftpad\n"))
        assert "exit code: 1" in str(failure.value)
        assert any("leftpad" in line for line in failure.value.last_lines)
        await world.build(context=world.context())

    async def test_a_build_that_never_ends_is_ended(self, world: World) -> None:
        limits = BuildLimits(memory_mib=1024, cpu_millis=2000, disk_mib=1024, seconds=2)
        with pytest.raises(BuildFailed, match="longer than 2 s"):
            await world.build(WAITING, context=world.context(WAIT=""), limits=limits)
        await world.build(context=world.context())

    async def test_cancelling_ends_the_build_and_not_the_builder(self, world: World) -> None:
        started = asyncio.Event()
        context = world.context(WAIT="")

        def hear(line: str) -> None:
            if "waiting" in line or isinstance(world.builder, FakeBuilder):
                started.set()

        async with asyncio.TaskGroup() as tasks:
            build = tasks.create_task(world.builder.build(world.request(WAITING, context=context), on_log=hear))
            await started.wait()
            build.cancel()
        assert build.cancelled()
        await world.build(context=world.context())


@pytest.mark.root
class TestBuildKit:
    async def test_dockerfiles_as_people_write_them(self, real: World) -> None:
        """A syntax line, stages, here-documents, cache mounts, build arguments, .dockerignore."""
        context = real.context(kept="kept", ignored="x", **{".dockerignore": "ignored\n"})
        dockerfile = """# syntax=docker/dockerfile:1
ARG BASE=base
FROM ${BASE} AS made
ARG WHO=nobody
COPY . /src
RUN --mount=type=cache,target=/cache <<EOF
set -eu
echo "$WHO" > /made
ls /src > /listed
echo x >> /cache/runs
EOF
FROM base
COPY --from=made /made /listed /out/
COPY <<EOF /out/inline
inline text
EOF
CMD ["cat", "/out/made"]
"""
        files = await real.files(
            await real.build(dockerfile, context=context, build_args={"WHO": "me, \"you\" = 'us'"})
        )
        assert files["out/made"] == b"me, \"you\" = 'us'\n"
        assert b"ignored\n" not in files["out/listed"]
        assert b"kept\n" in files["out/listed"]
        assert files["out/inline"] == b"inline text\n"

    async def test_steps_run_in_gvisor_unless_the_code_is_trusted(self, real: World) -> None:
        dockerfile = "FROM base\nRUN cat /proc/version > /version\nRUN cat /proc/self/status > /status\n"
        untrusted = await real.files(await real.build(dockerfile))
        assert b"gvisor" in untrusted["version"]
        trusted = await real.files(await real.build(dockerfile, trusted=True))
        assert b"gvisor" not in trusted["version"]
        for files in (untrusted, trusted):
            effective = int(files["status"].split(b"CapEff:")[1].split()[0], 16)
            assert not effective & (1 << 13 | 1 << 12 | 1 << 21 | 1 << 27), "raw sockets, net admin, sys admin, mknod"

    async def test_a_secret_is_in_neither_log_nor_image(self, real: World) -> None:
        secret = b"correct-horse-battery-staple"
        dockerfile = """FROM base
RUN --mount=type=secret,id=token cat /run/secrets/token; base64 /run/secrets/token; wc -c < /run/secrets/token > /size
RUN --mount=type=secret,id=token,env=TOKEN echo "token is $TOKEN"; exit 3
"""
        with pytest.raises(BuildFailed) as failure:
            await real.build(dockerfile, secrets={"token": secret})
        said = "\n".join((*real.log, str(failure.value), *failure.value.last_lines))
        assert "[secret token]" in said
        for hidden in ("correct-horse", "Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5"):
            assert hidden not in said
        await _until_not_on_disk(real.directory / "builder", secret)
        files = await real.files(await real.build(dockerfile.rsplit("RUN", 1)[0], secrets={"token": secret}))
        await _until_not_on_disk(real.directory / "builder", secret)
        limits = BuildLimits(memory_mib=1024, cpu_millis=2000, disk_mib=1024, seconds=3)
        never = "FROM base\nRUN --mount=type=secret,id=token cat /run/secrets/token; sleep 100\n"
        with pytest.raises(BuildFailed, match="longer than 3 s"):
            await real.build(never, secrets={"token": secret}, limits=limits)
        await _until_not_on_disk(real.directory / "builder", secret)
        assert files["size"].strip() == b"28"
        assert not any(secret in content for content in files.values())

    async def test_a_step_reaches_neither_the_host_nor_private_networks(self, real: World) -> None:
        shown = subprocess.run(["ip", "-json", "address", "show"], capture_output=True, check=True).stdout
        addresses = {a["local"] for link in json.loads(shown) for a in link["addr_info"] if a["family"] == "inet"}
        with socket.create_server(("0.0.0.0", 0)) as listener:
            port = listener.getsockname()[1]
            with socket.create_connection(("127.0.0.1", port), timeout=5):
                pass  # It is there for who may reach it.
            targets = [f"{a} {port}" for a in sorted(addresses | {"10.0.2.2"})]
            targets += ["169.254.169.254 80", "10.0.0.1 80", "172.16.0.1 80", "192.168.0.1 80", "100.64.0.1 80"]
            probes = "\n".join(f"nc -w 3 {target} </dev/null && echo '{target}' >> /reached" for target in targets)
            for trusted in (False, True):
                dockerfile = f"FROM base\nRUN <<EOF\ntouch /reached\n{probes}\ntrue\nEOF\n"
                digest = await real.build(dockerfile, trusted=trusted)
                assert (await real.files(digest))["reached"] == b""

    async def test_a_link_in_the_source_leads_nowhere(self, real: World) -> None:
        context = real.context()
        (context / "file").symlink_to("/etc/hostname")
        (context / "up").symlink_to("../" * 12 + "etc/hostname")
        (context / "folder").symlink_to("/etc")
        files = await real.files(await real.build("FROM base\nCOPY . /copied\n", context=context))
        assert files["copied/file"] == b"/etc/hostname"
        for source in ("file", "up", "folder/hostname"):
            with pytest.raises(BuildFailed):
                await real.build(f"FROM base\nCOPY {source} /copied/x\n", context=context)
        (context / ".dockerignore").symlink_to("/etc/hostname")
        with contextlib.suppress(BuildFailed):  # It may be refused; what counts is that it isn't read.
            await real.build("FROM base\nCOPY . /copied\n", context=context)
        assert not any(socket.gethostname() in line for line in real.log if ".dockerignore" in line)

    async def test_another_organisation_sees_nothing_of_a_cache(self, real: World) -> None:
        dockerfile = """FROM base
RUN --mount=type=cache,id=shared,target=/cache cat /cache/* > /seen 2>/dev/null; echo mine > /cache/note; cat /seen
RUN cat /proc/sys/kernel/random/uuid > /id
"""
        first = await real.files(await real.build(dockerfile))
        again = await real.files(await real.build(dockerfile + "RUN true\n"))
        other = await real.files(await real.build(dockerfile, organisation=OTHER))
        assert first["id"] == again["id"], "an organisation's own cache is used"
        assert first["id"] != other["id"]
        assert other["seen"] == b""

    async def test_one_that_fills_the_disk_hurts_only_itself(self, real: World) -> None:
        limits = BuildLimits(memory_mib=1024, cpu_millis=2000, disk_mib=100, seconds=120)
        builder = _real_builder(real.store, real.prefix, real.directory / "small", cache_mib=20)
        request = real.request("FROM base\nRUN dd if=/dev/zero of=/big bs=1M count=500\n", limits=limits)
        await real.builder.close()
        try:
            with pytest.raises(BuildFailed, match="disk space"):
                await builder.build(request, on_log=lambda _: None)
        finally:
            await builder.close()

    async def test_one_that_takes_all_memory_is_ended_and_told_so(self, real: World) -> None:
        limits = BuildLimits(memory_mib=256, cpu_millis=2000, disk_mib=1024, seconds=60)
        with pytest.raises(BuildFailed, match="out of memory"):
            await real.build("FROM base\nRUN tail /dev/zero\n", limits=limits)
        await real.build()

    async def test_the_certificates_reach_a_step_of_any_user_and_not_the_image(self, real: World) -> None:
        dockerfile = "FROM base\nWORKDIR /out\nRUN chmod 777 .\nUSER nobody\nRUN cat $SSL_CERT_FILE > seen; env > env\n"
        files = await real.files(await real.build(dockerfile))
        assert files["out/seen"] == CERTIFICATES.read_bytes()
        assert b"NODE_EXTRA_CA_CERTS=" in files["out/env"]
        assert not [path for path in files if "shellwego" in path]

    async def test_an_image_that_nobody_has_is_named_with_what_to_do(self, real: World) -> None:
        with pytest.raises(BuildFailed, match=r"images map"):
            await real.build("FROM registry.invalid/no/such:1\n")

    async def test_arguments_that_steer_the_builder_are_refused(self, real: World) -> None:
        for key in ("BUILDKIT_SYNTAX", "BUILDKIT_CACHE_MOUNT_NS", "a=b"):
            with pytest.raises(InvalidField):
                await real.build(build_args={key: "x"})
        with pytest.raises(InvalidField):
            await real.build(secrets={"a,src=/etc/shadow": b"x"})

    async def test_what_a_killed_server_left_is_ended_by_the_next(self, real: World) -> None:
        await real.build()
        abandoned = real.builder
        successor = _real_builder(real.store, real.prefix, real.directory)
        assert len(await successor.end_stale()) >= 1
        left = inventory(real.prefix)
        assert not [line for line in left if line.startswith(("process", "namespace", "mount"))]
        await abandoned.close()
        real.builder = successor
        await real.build()


@pytest.mark.root
async def test_a_server_killed_at_any_step_of_a_build_leaves_nothing_that_stays(tmp_path: Path) -> None:
    """After each possible end, the next server builds the same source, and then nothing is left of either."""
    prefix = _fresh_prefix()
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


@pytest.mark.root
@pytest.mark.parametrize("point", ["builder.built", "builder.imported"])
async def test_a_server_killed_with_a_secret_in_its_cache_leaves_none_to_the_next(tmp_path: Path, point: str) -> None:
    """What a step printed lies in BuildKit's own records until they are thrown away, and the one to do so is dead."""
    prefix, secret = _fresh_prefix(), "correct-horse-battery-staple"
    (tmp_path / "context").mkdir()
    store = DirectoryImageStore(tmp_path / "store")
    await store.import_layout(busybox_layout(tmp_path / "busybox"), name="base/busybox")
    status, said = await _run_child(tmp_path, prefix, secret, faults=f"{point}=exit")
    assert status == 137, said
    assert secret not in said
    await _real_builder(store, prefix, tmp_path).end_stale()  # As a server does when it starts.
    await _until_not_on_disk(tmp_path, secret.encode())
    status, said = await _run_child(tmp_path, prefix)
    assert status == 0, said
    shutil.rmtree(Path("/run/shellwego") / prefix, ignore_errors=True)
    assert inventory(prefix, tmp_path) == []


async def _until_not_on_disk(directory: Path, secret: bytes) -> None:
    """BuildKit's own records hold what steps printed until they are thrown away, and ext4 frees a moment later."""
    async with asyncio.timeout(60):
        while True:
            grep = await asyncio.create_subprocess_exec(
                "grep", "-rlaF", "-D", "skip", "-e", secret.decode(), str(directory), stdout=asyncio.subprocess.PIPE
            )
            if not (await grep.communicate())[0]:
                return
            await asyncio.sleep(0.5)


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


@pytest.mark.root
@pytest.mark.timeout(900)
async def test_the_examples_build_from_our_own_bases(real: World) -> None:
    """The first thing that a new operator tries, on a machine that reaches no hub."""
    directory = install_directory().parent / "images"  # As `shellwego up` does: made once per machine.
    made = await bootstrap_images(
        store=real.store, builder=real.builder, directory=directory, on_progress=real.log.append
    )
    images = {entry.name: entry.image for entry in made}
    assert set(images) == {"base/debian", "base/python", "base/node", "base/static"}
    for image in images.values():
        assert "libc6=" in image.config.labels["org.shellwego.packages"]
    own = {f"shellwego/{name.replace('/', '-')}": image.digest for name, image in images.items()}
    limits = BuildLimits(memory_mib=2048, cpu_millis=2000, disk_mib=4096, seconds=600)
    for example, user in (("flask", "app"), ("node", "node"), ("static", "app"), ("dockerfile", "visitor")):
        plan = plan_build(read_source_files(EXAMPLES / example))
        mapped = {
            name: images[image].digest
            for name in base_names(plan.dockerfile)
            for pattern, image in default_mappings()
            if fnmatchcase(name, pattern)
        }
        digest = await real.build(plan.dockerfile, context=EXAMPLES / example, bases=own | mapped, limits=limits)
        image = await real.store.resolve(digest)
        assert image.config.user == user
        assert image.config.cmd
