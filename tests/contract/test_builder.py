"""Does every builder keep the promises of its port, and does the real one keep its walls?"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
from collections.abc import AsyncIterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import pytest_asyncio
from tests.contract.builder_world import (
    ACME,
    CERTIFICATES,
    LIMITS,
    OTHER,
    WAITING,
    World,
    a_world,
    real_builder,
    until_not_on_disk,
)
from tests.leaks import inventory

from shellwego.core.buildplan import plan_build
from shellwego.core.dockerfiles import base_names
from shellwego.core.errors import BuildFailed, InvalidField
from shellwego.drivers.engines.places import install_directory
from shellwego.drivers.images.bootstrap import bootstrap_images, default_mappings
from shellwego.drivers.images.build_fake import FakeBuilder
from shellwego.drivers.images.port import BuildLimits
from shellwego.drivers.images.source_files import read_source_files

pytestmark = pytest.mark.asyncio(loop_scope="module")

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest_asyncio.fixture(
    params=["fake", pytest.param("buildkit", marks=pytest.mark.root)], scope="module", loop_scope="module"
)
async def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with a_world(request.param, tmp_path_factory.mktemp("builds")) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def real(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with a_world("buildkit", tmp_path_factory.mktemp("builds")) as made:
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

    async def test_what_a_build_needs_can_be_made_ready_before_it(self, world: World) -> None:
        """A deployment does so while its source is unpacked."""
        for _ in range(2):
            await world.builder.prepare(ACME, trusted=False, limits=LIMITS)
        await world.build(context=world.context(hello="ready"))
        await world.builder.prepare(ACME, trusted=False, limits=LIMITS)

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
            async with asyncio.timeout(5):  # Getting ready waits for no build: somebody's tests may run for minutes.
                await world.builder.prepare(ACME, trusted=False, limits=LIMITS)
                await world.builder.prepare(OTHER, trusted=False, limits=LIMITS)
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
        await until_not_on_disk(real.directory / "builder", secret)
        files = await real.files(await real.build(dockerfile.rsplit("RUN", 1)[0], secrets={"token": secret}))
        await until_not_on_disk(real.directory / "builder", secret)
        limits = BuildLimits(memory_mib=1024, cpu_millis=2000, disk_mib=1024, seconds=3)
        never = "FROM base\nRUN --mount=type=secret,id=token cat /run/secrets/token; sleep 100\n"
        with pytest.raises(BuildFailed, match="longer than 3 s"):
            await real.build(never, secrets={"token": secret}, limits=limits)
        await until_not_on_disk(real.directory / "builder", secret)
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
        builder = real_builder(real.store, real.prefix, real.directory / "small", cache_mib=20)
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
        successor = real_builder(real.store, real.prefix, real.directory)
        assert len(await successor.end_stale()) >= 1
        left = inventory(real.prefix)
        assert not [line for line in left if line.startswith(("process", "namespace", "mount"))]
        await abandoned.close()
        real.builder = successor
        await real.build()


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
