"""Nobody sees, changes or even senses what belongs to another organisation.

Every operation of the document that names a thing is called with a stranger's things. A new operation is in the
document, so it is in this test, or the test says that it doesn't know how to try it.
"""

from __future__ import annotations

import re

from tests.integration.conftest import World
from tests.integration.test_deployments import deploy, release, succeed
from tests.integration.test_problems import problem

from shellwego.control.store.records import InstanceRecord
from shellwego.core.ids import InstanceId, ReleaseId

BODIES = {
    "updateApp": {"replicas": {"web": 2}},
    "createDeployment": {"image": "x"},
    "changeConfig": {"values": {"A": "1"}},
}
FOR_OPERATORS = {"getNode"}


async def test_a_strangers_things_are_not_there(world: World, member):
    await member.post("/v1/apps", json={"name": "blog"})
    made = await deploy(member, image="x", config={"KEY": "value"})
    await release(world, made["id"])
    await succeed(world, made["id"])
    token = (await member.post("/v1/tokens", json={"name": "mine"})).json()
    app = (await member.get("/v1/apps/blog")).json()
    async with world.store.writing() as work:
        tenant = work.for_the_cloud()
        record = await tenant.apps.get(app["id"])
        instance = InstanceRecord(
            id=InstanceId(work.new_id("instance")),
            organisation=record.organisation,
            app=record.id,
            release=ReleaseId(str(record.current_release)),
            process="web",
            created_at=work.now,
        )
        await tenant.instances.add(instance)
    values = {
        "app": ["blog", app["id"]],
        "deployment": [made["id"]],
        "release": ["v1", str(record.current_release)],
        "token": [token["id"]],
        "instance": [instance.id],
    }
    before = await _everything(member)
    async with world.client(await world.new_user("other")) as stranger:
        tried = 0
        for path, operations in world.api.openapi()["paths"].items():
            for method, operation in operations.items():
                if "{" not in path or operation["operationId"] in FOR_OPERATORS:
                    continue
                tried += 1
                for url, nothing in _filled(path, values):
                    answer = await _call(stranger, method, url, operation["operationId"])
                    told = problem(answer, 404, "not_found")["detail"]
                    # The same as for what never was, so that not even existence shows.
                    never = await _call(stranger, method, nothing, operation["operationId"])
                    assert _shape(problem(never, 404, "not_found")["detail"]) == _shape(told)
        assert tried >= 18
        for path in ("/v1/apps", "/v1/instances", "/v1/apps?name=blog"):
            assert (await stranger.get(path)).json()["items"] == []
        problem(await stranger.get("/v1/instances", params={"app": "blog"}), 404, "not_found")
        problem(await stranger.post("/v1/apps", json={"name": "blog"}), 409, "already_exists")
        own = await stranger.post("/v1/apps", json={"name": "mine"})
        source = await member.post(
            "/v1/apps/blog/sources", content=b"\x1f\x8bxx", headers={"Content-Type": "application/gzip"}
        )
        stolen = {"source": source.json()["id"]}
        problem(await stranger.post("/v1/apps/mine/deployments", json=stolen), 422, "invalid_field", "source")
        assert own.status_code == 201
        status = (await stranger.get("/v1/status")).json()
        assert (status["apps"], status["nodes"], status["instances"]) == ({"empty": 1}, [], {})
    assert await _everything(member) == before


async def test_an_object_of_another_app_of_mine_is_not_there_either(member):
    for name in ("a", "b"):
        await member.post("/v1/apps", json={"name": name})
    made = await deploy(member, "a", image="x")
    for path in ("", "/events", "/cancel"):
        method = "POST" if path == "/cancel" else "GET"
        problem(await member.request(method, f"/v1/apps/b/deployments/{made['id']}{path}"), 404, "not_found")


async def _call(client, method: str, url: str, id: str):
    if id == "uploadSource":
        return await client.post(url, content=b"\x1f\x8bxx", headers={"Content-Type": "application/gzip"})
    return await client.request(method.upper(), url, json=BODIES.get(id) if method in {"post", "patch"} else None)


def _filled(path: str, values: dict[str, list[str]]) -> list[tuple[str, str]]:
    """Addresses of things that exist, each beside one of the same form that never did."""
    urls = [(path, path)]
    for name, options in values.items():
        field = "{" + name + "}"
        if field in path:
            urls = [(u.replace(field, o), n.replace(field, _never(o))) for u, n in urls for o in options]
    assert not any("{" in url for url, _ in urls), f"this test doesn't know how to fill {path}"
    return urls


def _never(option: str) -> str:
    return f"{option[:4]}{'q' * 20}" if "_" in option else "v99" if option == "v1" else "never"


def _shape(detail: str) -> str:
    """A refusal without the name it repeats."""
    return re.sub(r"'[^']*'", "''", detail)


async def _everything(client) -> list:
    paths = ("/v1/apps/blog", "/v1/apps/blog/deployments", "/v1/apps/blog/releases", "/v1/apps/blog/config")
    return [(await client.get(path)).json() for path in paths]
