"""How a queued deployment of a source gets its image: the builds controller with a builder that builds nothing real."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path

import pytest
from tests.integration.conftest import World

from shellwego.control.controllers.builds import BuildPlaces, BuildsController
from shellwego.core.errors import EngineMissing, InvalidField
from shellwego.core.ids import OrganisationId
from shellwego.drivers.images.build_fake import FakeBuilder
from shellwego.drivers.images.fake import FakeImageStore
from shellwego.drivers.images.port import BuildLimits


class Unpacking:
    """Stands in for the unpacker. It ends when a test lets it, with a source or with an error."""

    def __init__(self) -> None:
        self.begun, self.may_end = asyncio.Event(), asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self, _path: Path, _sha256: str, into: Path) -> None:
        self.begun.set()
        await self.may_end.wait()
        if self.error is not None:
            raise self.error
        into.mkdir()
        (into / "Dockerfile").write_text("FROM base\n")


class Preparing(FakeBuilder):
    def __init__(self, store: FakeImageStore) -> None:
        super().__init__(store)
        self.ready = asyncio.Event()
        self.error: Exception | None = None

    async def prepare(self, organisation: OrganisationId, *, trusted: bool, limits: BuildLimits) -> None:
        await super().prepare(organisation, trusted=trusted, limits=limits)
        self.ready.set()
        if self.error is not None:
            raise self.error


class Builds:
    def __init__(self, world: World, member, images: FakeImageStore) -> None:
        self.world, self.member, self.images = world, member, images
        self.unpacking, self.builder = Unpacking(), Preparing(images)

    async def deploy(self) -> str:
        await self.member.post("/v1/apps", json={"name": "blog"})
        content = b"\x1f\x8b" + secrets.token_bytes(16)
        kind = {"Content-Type": "application/gzip"}
        source = (await self.member.post("/v1/apps/blog/sources", content=content, headers=kind)).json()["id"]
        made = await self.member.post("/v1/apps/blog/deployments", json={"source": source})
        return str(made.json()["id"])

    def controller(self, tasks: asyncio.TaskGroup) -> BuildsController:
        settings = self.world.parts.settings
        return BuildsController(
            self.world.store,
            self.world.kms,
            images=self.images,
            builder=self.builder,
            unpack=self.unpacking,
            places=BuildPlaces(settings.sources, settings.directory / "work", settings.builds),
            tasks=tasks,
        )

    async def state(self, deployment: str) -> tuple[str, str]:
        found = (await self.member.get(f"/v1/apps/blog/deployments/{deployment}")).json()
        return str(found["state"]), str(found.get("reason") or "")


@pytest.fixture
async def builds(world: World, member, tmp_path: Path) -> Builds:
    return Builds(world, member, FakeImageStore(tmp_path / "images"))


async def test_the_builder_gets_ready_while_the_source_is_unpacked(builds: Builds) -> None:
    """Otherwise every deployment waits for one and then for the other."""
    deployment = await builds.deploy()
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        await builds.controller(tasks).once()
        await builds.unpacking.begun.wait()
        await builds.builder.ready.wait()
        assert not builds.builder.builds
        builds.unpacking.may_end.set()
    assert [request.organisation for request in builds.builder.builds] == builds.builder.prepared
    assert (await builds.state(deployment))[0] == "rolling"


@pytest.mark.parametrize("error", [EngineMissing("buildkit", "It is away."), RuntimeError("a bug")])
async def test_a_builder_that_cannot_get_ready_is_asked_to_build_all_the_same(builds: Builds, error: Exception) -> None:
    """Its own words, from the build, are what the user needs; and nobody else's builds may end for it."""
    builds.builder.error = error
    builds.unpacking.may_end.set()
    deployment = await builds.deploy()
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        await builds.controller(tasks).once()
    assert (await builds.state(deployment))[0] == "rolling"


async def test_a_source_that_is_none_fails_its_deployment_alone(builds: Builds) -> None:
    builds.unpacking.error = InvalidField("source", "can't be used: it is no tar.")
    builds.unpacking.may_end.set()
    deployment = await builds.deploy()
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        await builds.controller(tasks).once()
    state, reason = await builds.state(deployment)
    assert state == "failed"
    assert "it is no tar" in reason
    assert not builds.builder.builds
