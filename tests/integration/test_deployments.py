"""Deployments: what a wish becomes, and that no wish is lost."""

from __future__ import annotations

import asyncio

import pytest
from tests.integration.conftest import World
from tests.integration.test_problems import problem

from shellwego.control.services import deployments as service
from shellwego.control.services.apps import finish_deletion
from shellwego.control.services.sealing import config_of, options_of
from shellwego.control.services.shapes import Found
from shellwego.core.deployments import DeploymentState
from shellwego.core.errors import BuildFailed, Conflict
from shellwego.core.releases import KEPT_RELEASES

DIGEST = "registry.test/site@sha256:" + "a" * 64


async def make(client, name: str = "blog") -> None:
    assert (await client.post("/v1/apps", json={"name": name})).status_code == 201


async def deploy(client, name: str = "blog", **body) -> dict:
    answer = await client.post(f"/v1/apps/{name}/deployments", json=body)
    assert answer.status_code == 202, answer.text
    return answer.json()


async def release(world: World, deployment: str, found: Found | None = None, image: str = DIGEST):
    """What the builds controller does once it has an image."""
    async with world.store.writing() as work:
        record = await work.for_the_cloud().deployments.get(deployment)
        return await service.start_release(work, world.kms, record, image, found or Found())


async def succeed(world: World, deployment: str) -> None:
    async with world.store.writing() as work:
        record = await work.for_the_cloud().deployments.get(deployment)
        await service.succeed(work, record)


async def run(world: World, client, found: Found | None = None, **body) -> dict:
    """A whole deployment that goes well."""
    made = await deploy(client, **body)
    if made["state"] == "queued":
        await release(world, made["id"], found)
    await succeed(world, made["id"])
    world.now.forward(seconds=1)
    return (await client.get(f"/v1/apps/blog/deployments/{made['id']}")).json()


async def config(client, app: str = "blog") -> dict:
    return (await client.get(f"/v1/apps/{app}/config")).json()


async def test_the_first_deployment_gets_release_v1(world: World, member):
    await make(member)
    made = await deploy(member, image="registry.test/site", config={"A": "1"}, note="first")
    assert (made["state"], made["kind"], made["image"]) == ("queued", "deploy", "registry.test/site")
    assert (await member.get("/v1/apps/blog")).json()["status"] == "deploying"
    await release(world, made["id"], Found(exposed_ports=(80, 443)))
    rolling = (await member.get(f"/v1/apps/blog/deployments/{made['id']}")).json()
    assert (rolling["state"], rolling["release"], rolling["image"]) == ("rolling", "v1", DIGEST)
    await succeed(world, made["id"])
    app = (await member.get("/v1/apps/blog")).json()
    assert (app["release"], app["image"], app["status"]) == ("v1", DIGEST, "starting")
    (found,) = (await member.get("/v1/apps/blog/releases")).json()["items"]
    assert (found["label"], found["current"], found["port"], found["config_keys"]) == ("v1", True, 80, ["A"])
    assert found["note"] == "first"
    assert (await config(member)) == {"values": {"A": "1"}, "release": "v1"}


async def test_two_changes_of_the_configuration_at_once_are_both_kept(world: World, member):
    """The second is asked for while the first still rolls out, and takes its place."""
    await make(member)
    await run(world, member, image="x", config={"BASE": "0"})
    first = await member.patch("/v1/apps/blog/config", json={"values": {"A": "1"}})
    assert first.json() == {"values": {"A": "1", "BASE": "0"}, "release": "v2"}
    second = await member.patch("/v1/apps/blog/config", json={"values": {"B": "2", "BASE": None}})
    assert second.json() == {"values": {"A": "1", "B": "2"}, "release": "v3"}
    newest, before, *_ = (await member.get("/v1/apps/blog/deployments")).json()["items"]
    assert {(newest["kind"], newest["state"]), (before["kind"], before["state"])} == {
        ("config", "rolling"),
        ("config", "superseded"),
    }


async def test_a_change_of_the_configuration_during_a_build_keeps_the_build(world: World, member):
    """Setting a variable while a source is being built must not throw the new code away."""
    await make(member)
    await run(world, member, image="old", config={"BASE": "0"})
    building = await deploy(member, image="new", config={"A": "1"}, port=9000, build=None)
    await member.patch("/v1/apps/blog/config", json={"values": {"B": "2"}})
    newest = (await member.get("/v1/apps/blog")).json()["deployment"]
    taken = (await member.get(f"/v1/apps/blog/deployments/{newest}")).json()
    assert newest != building["id"]
    assert (taken["kind"], taken["state"], taken["image"]) == ("deploy", "queued", "new")
    made = await release(world, newest)
    assert await config_of(world.kms, made) == {"A": "1", "B": "2", "BASE": "0"}
    assert made.spec.port == 9000


async def test_configuration_set_before_the_first_deployment_is_in_it(world: World, member):
    await make(member)
    assert (await config(member)) == {"values": {}, "release": None}
    await member.patch("/v1/apps/blog/config", json={"values": {"A": "1", "B": "2"}})
    await member.patch("/v1/apps/blog/config", json={"values": {"B": None}})
    assert (await config(member)) == {"values": {"A": "1"}, "release": None}
    failed = await deploy(member, image="x", config={"C": "3"})
    async with world.store.writing() as work:
        record = await work.for_the_cloud().deployments.get(failed["id"])
        await service.fail_with(work, record, BuildFailed("no", ("line 1", "line 2")))
    answer = (await member.get(f"/v1/apps/blog/deployments/{failed['id']}")).json()
    assert (answer["state"], answer["code"], answer["last_lines"]) == ("failed", "build_failed", ["line 1", "line 2"])
    assert (await member.get("/v1/apps/blog")).json()["status_reason"].startswith("the last deployment failed")
    await run(world, member, image="x")
    assert (await config(member)) == {"values": {"A": "1", "C": "3"}, "release": "v1"}


async def test_what_is_left_out_stays(world: World, member):
    await make(member)
    await run(
        world,
        member,
        image="x",
        processes={"web": {"command": "serve"}, "worker": {"command": ["work", "-v"]}},
        resources={"memory_mib": 128},
        health={"kind": "http", "path": "/up"},
        port=3000,
        grace_seconds=30,
        replicas={"worker": 4},
    )
    await run(world, member, image="y", resources={"cpu_millis": 250})
    newest = (await member.get("/v1/apps/blog/releases/v2")).json()
    web, worker = newest["processes"]["web"], newest["processes"]["worker"]
    assert (web["command"], worker["command"]) == ("serve", ["work", "-v"])
    assert (web["health"]["kind"], web["health"]["path"], worker["health"]["kind"]) == ("http", "/up", "none")
    assert (web["resources"]["memory_mib"], web["resources"]["cpu_millis"]) == (128, 250)
    assert (newest["port"], newest["grace_seconds"]) == (3000, 30)
    app = (await member.get("/v1/apps/blog")).json()
    assert {name: p["desired"] for name, p in app["processes"].items()} == {"web": 1, "worker": 4}


async def test_commands_found_in_a_source_do_not_outlive_it(world: World, member):
    """A Procfile's gunicorn must not be run in the nginx image that is deployed next."""
    await make(member)
    found = Found(commands={"web": "gunicorn app", "release": "migrate"}, exposed_ports=(5000,))
    await run(world, member, found, image="built")
    first = (await member.get("/v1/apps/blog/releases/v1")).json()
    assert (first["processes"]["web"]["command"], first["port"]) == ("gunicorn app", 5000)
    assert (await member.get("/v1/apps/blog")).json()["processes"]["release"]["desired"] == 0
    await member.patch("/v1/apps/blog/config", json={"values": {"A": "1"}})
    second = (await member.get("/v1/apps/blog/releases/v2")).json()
    assert second["processes"]["web"]["command"] == "gunicorn app"
    await run(world, member, Found(exposed_ports=(80,)), image="nginx")
    third = (await member.get("/v1/apps/blog/releases/v3")).json()
    assert (list(third["processes"]), third["processes"]["web"]["command"], third["port"]) == (["web"], [], 80)


async def test_rollback_brings_image_and_configuration_back(world: World, member):
    await make(member)
    await run(world, member, image="one", config={"A": "1"})
    await run(world, member, image="two", config={"A": "2"})
    back = await deploy(member, release="previous")
    assert (back["kind"], back["state"], back["release"], back["previous_release"]) == (
        "rollback",
        "rolling",
        "v1",
        "v2",
    )
    await succeed(world, back["id"])
    assert (await config(member)) == {"values": {"A": "1"}, "release": "v1"}
    problem(await member.post("/v1/apps/blog/deployments", json={"release": "previous"}), 409, "conflict")
    forward = await deploy(member, release="v2")
    assert forward["release"] == "v2"
    for label in ("v3", "v0", "2x", "rel_aaaaaaaaaaaaaaaaaaaa", "\u0662"):
        answer = await member.post("/v1/apps/blog/deployments", json={"release": label})
        problem(answer, 422, "invalid_field", "release")


async def test_a_rollback_to_a_built_image_that_made_room_is_refused(world: World, member):
    """Or it fails on a node, after its pull, with words about a registry that never had the image."""
    await make(member)
    pulled, built, newer = (f"registry.example/shop@sha256:{1:064x}", *(f"sha256:{n:064x}" for n in (2, 3)))
    for image in (pulled, built, *[newer] * (KEPT_RELEASES - 1)):
        made = await deploy(member, image="any")
        await release(world, made["id"], image=image)
        await succeed(world, made["id"])
    assert (await deploy(member, release="v2"))["state"] == "rolling", "it is the tenth, and kept"
    last = await deploy(member, image="any")
    await release(world, last["id"], image=newer)
    await succeed(world, last["id"])
    refusal = problem(await member.post("/v1/apps/blog/deployments", json={"release": "v2"}), 409, "image_not_kept")
    assert "Deploy its source again" in refusal["detail"]
    back = await deploy(member, release="v1")
    assert back["state"] == "rolling", "what a registry has is pulled again"
    async with world.store.reading() as work:
        assert pulled in await work.for_the_cloud().releases.images_to_keep(newest=KEPT_RELEASES)


async def test_a_release_that_failed_is_never_the_previous_one(world: World, member):
    await make(member)
    await run(world, member, image="good")
    broken = await deploy(member, image="broken")
    await release(world, broken["id"])
    async with world.store.writing() as work:
        record = await work.for_the_cloud().deployments.get(broken["id"])
        await service.fail(work, record, reason="crashed", code="rollout_failed", last_lines=["boom"])
    app = (await member.get("/v1/apps/blog")).json()
    assert app["release"] == "v1"
    await run(world, member, image="better")
    assert (await deploy(member, release="previous"))["release"] == "v1"


async def test_the_list_of_releases_says_what_became_of_each(world: World, member):
    """Whoever looks for one to go back to must see which ran, which never did, and which serves."""

    async def states() -> dict[str, tuple[str, str]]:
        listed = (await member.get("/v1/apps/blog/releases")).json()["items"]
        for one in listed:
            assert (await member.get(f"/v1/apps/blog/releases/{one['label']}")).json() == one
        return {one["label"]: (one["state"], one["deployed_as"]) for one in listed}

    await make(member)
    await run(world, member, image="one")
    await run(world, member, image="two")
    broken = await deploy(member, image="broken")
    await release(world, broken["id"])
    assert (await states())["v3"] == ("deploying", "deploy")
    async with world.store.writing() as work:
        record = await work.for_the_cloud().deployments.get(broken["id"])
        await service.fail(work, record, reason="crashed", code="rollout_failed")
    back = await deploy(member, release="v1")
    assert (await states())["v1"] == ("deploying", "rollback")
    await succeed(world, back["id"])
    assert await states() == {"v3": ("failed", "deploy"), "v2": ("replaced", "deploy"), "v1": ("live", "rollback")}
    # A rollback that is given up takes nothing from what its release once was.
    back = await deploy(member, release="v2")
    await member.post(f"/v1/apps/blog/deployments/{back['id']}/cancel")
    assert await states() == {"v3": ("failed", "deploy"), "v2": ("replaced", "rollback"), "v1": ("live", "rollback")}


async def test_restart_deploys_the_current_release_again(world: World, member):
    await make(member)
    problem(await member.post("/v1/apps/blog/restart"), 409, "conflict")
    await run(world, member, image="one")
    assert (await member.post("/v1/apps/blog/restart")).status_code == 202
    newest = (await member.get("/v1/apps/blog/deployments")).json()["items"][0]
    assert (newest["kind"], newest["release"]) == ("restart", "v1")


async def test_cancelling_keeps_what_serves(world: World, member):
    await make(member)
    await run(world, member, image="one")
    made = await deploy(member, image="two")
    cancelled = await member.post(f"/v1/apps/blog/deployments/{made['id']}/cancel")
    assert cancelled.json()["state"] == "cancelled"
    assert (await member.post(f"/v1/apps/blog/deployments/{made['id']}/cancel")).status_code == 200
    first = (await member.get("/v1/apps/blog/deployments")).json()["items"][-1]
    problem(await member.post(f"/v1/apps/blog/deployments/{first['id']}/cancel"), 409, "conflict")
    with pytest.raises(Conflict):
        await release(world, made["id"])


async def test_secrets_of_a_deployment_are_sealed_and_forgotten_with_it(world: World, member):
    await make(member)
    login = {"username": "me", "password": "hunter2"}
    made = await deploy(member, image="x", registry_login=login, config={"KEY": "hunter3"})
    async with world.store.reading() as work:
        record = await work.for_the_cloud().deployments.get(made["id"])
        events = await work.for_the_cloud().outbox.unpublished(limit=1000)
    assert b"hunter" not in record.options_ciphertext
    assert "hunter" not in repr(record.request) + repr([e.payload for e in events])
    assert (await options_of(world.kms, record))["registry_login"] == login
    made = await release(world, made["id"])
    assert b"hunter" not in made.config_ciphertext
    await succeed(world, record.id)
    async with world.store.reading() as work:
        assert (await work.for_the_cloud().deployments.get(record.id)).options_ciphertext is None


REFUSED = [
    ({}, 409, None),
    ({"image": "x", "source": "src_aaaaaaaaaaaaaaaaaaaa"}, 422, "source"),
    ({"image": "x", "release": "v1"}, 422, "release"),
    ({"source": "src_aaaaaaaaaaaaaaaaaaaa"}, 422, "source"),
    ({"source": "../../etc/passwd"}, 422, "source"),
    ({"image": "--upload-pack=x"}, 422, "image"),
    ({"image": "a b"}, 422, "image"),
    ({"image": "../x"}, 422, "image"),
    ({"image": "sha256:" + "a" * 64}, 422, "image"),
    ({"image": "x", "port": 0}, 422, "port"),
    ({"image": "x", "port": 70000}, 422, "port"),
    ({"image": "x", "runtime": "docker"}, 422, "runtime"),
    ({"image": "x", "runtime": "runc"}, 403, None),
    ({"source": "src_aaaaaaaaaaaaaaaaaaaa", "build": {"trusted": True}}, 403, None),
    ({"image": "x", "build": {}}, 422, "build"),
    ({"registry_login": {"username": "a", "password": "b"}}, 422, "registry_login"),
    ({"image": "x", "processes": {}}, 422, "processes"),
    ({"image": "x", "processes": {"Web": {}}}, 422, "processes.Web"),
    ({"image": "x", "processes": {"worker": {"health": {"kind": "http"}}}}, 422, "processes.worker.health.kind"),
    ({"image": "x", "resources": {"memory_mib": 1}}, 422, "resources.memory_mib"),
    ({"image": "x", "resources": {"memory_mib": 10**12}}, 422, "resources.memory_mib"),
    ({"image": "x", "config": {"1A": "x"}}, 422, "config.1A"),
    ({"image": "x", "config": {"PORT": "1"}}, 422, "config.PORT"),
    ({"image": "x", "config": {"A": "x" * 70_000}}, 422, "config"),
    ({"image": "x", "replicas": {"web": 101}}, 422, "replicas.web"),
    ({"image": "x", "replicas": {"web": -1}}, 422, "replicas.web"),
    ({"image": "x", "grace_seconds": 4000}, 422, "grace_seconds"),
]


async def test_a_wish_that_cannot_be_is_refused_by_name(member):
    await make(member)
    for body, status, field in REFUSED:
        code = {409: "conflict", 422: "invalid_field", 403: "forbidden"}[status]
        problem(await member.post("/v1/apps/blog/deployments", json=body), status, code, field)
    assert (await member.get("/v1/apps/blog/deployments")).json()["items"] == []


async def test_scaling_a_process_type_that_does_not_exist_names_those_that_do(world: World, member):
    await make(member)
    await run(world, member, image="one")
    body = problem(
        await member.patch("/v1/apps/blog", json={"replicas": {"worker": 2}}), 422, "invalid_field", "replicas.worker"
    )
    assert "web" in body["errors"][0]["problem"]


async def test_a_hundred_changes_at_once_are_all_kept(world: World, member):
    """The property behind all of the above, with real concurrency: every one is in the last configuration."""
    await make(member)
    await run(world, member, image="one")
    answers = await asyncio.gather(
        *(member.patch("/v1/apps/blog/config", json={"values": {f"K{n}": str(n)}}) for n in range(30))
    )
    assert {a.status_code for a in answers} == {200}
    assert (await config(member))["values"] == {f"K{n}": str(n) for n in range(30)}
    async with world.store.reading() as work:
        unfinished = await work.for_the_cloud().deployments.unfinished()
        numbers = [r.number for r in await work.for_the_cloud().releases.page(unfinished[0].app, limit=100)]
    assert [d.state for d in unfinished] == [DeploymentState.ROLLING]
    assert numbers == list(range(31, 0, -1))


async def test_deleting_an_app_cancels_its_deployment_and_frees_its_name_at_the_end(world: World, member):
    await make(member)
    made = await deploy(member, image="x")
    app = (await member.delete("/v1/apps/blog")).json()
    assert app["status"] == "deleting"
    assert (await member.get(f"/v1/apps/blog/deployments/{made['id']}")).json()["state"] == "cancelled"
    problem(await member.post("/v1/apps", json={"name": "blog"}), 409, "already_exists")
    async with world.store.writing() as work:
        await finish_deletion(work, await work.for_the_cloud().apps.get(app["id"]))
    problem(await member.get("/v1/apps/blog"), 404, "not_found")
    await make(member)
