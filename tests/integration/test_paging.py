"""Lists in pieces: nothing twice, nothing missing, whatever is added meanwhile."""

from __future__ import annotations

from tests.integration.conftest import World


async def every(client, path: str, limit: int, between=None) -> list[dict]:
    items, cursor = [], None
    while True:
        params = {"limit": limit} | ({"cursor": cursor} if cursor else {})
        page = (await client.get(path, params=params)).json()
        assert len(page["items"]) <= limit
        items += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            return items
        if between is not None:
            await between()


async def test_apps_come_once_each_in_the_order_of_names(member):
    names = [f"app-{n}" for n in range(10, 20)]
    for name in reversed(names):
        await member.post("/v1/apps", json={"name": name})
    added = iter(("app-05", "app-06", "app-07", "app-08"))

    async def add() -> None:
        await member.post("/v1/apps", json={"name": next(added)})

    assert [app["name"] for app in await every(member, "/v1/apps", 3, add)] == names
    assert len(await every(member, "/v1/apps", 200)) == 13
    (one,) = (await member.get("/v1/apps?name=app-12")).json()["items"]
    assert one["name"] == "app-12"


async def test_deployments_and_releases_come_newest_first(world: World, member):
    """Also those of one instant."""
    await member.post("/v1/apps", json={"name": "blog"})
    ids = []
    for number in range(7):
        made = await member.post("/v1/apps/blog/deployments", json={"image": f"x:{number}"})
        ids.append(made.json()["id"])
        if number % 2:
            world.now.forward(seconds=1)
    listed = [d["id"] for d in await every(member, "/v1/apps/blog/deployments", 2)]
    assert sorted(listed) == sorted(ids)
    assert listed[0] == ids[-1]


async def test_the_last_page_says_so(member):
    for name in ("a", "b"):
        await member.post("/v1/apps", json={"name": name})
    assert (await member.get("/v1/apps?limit=2")).json()["next_cursor"] is None


async def test_operators_lists_are_paged_too(world: World, admin):
    for name in ("one", "two", "three"):
        await world.new_user(name)
    names = [o["name"] for o in await every(admin, "/v1/organisations", 1)]
    assert names == ["default", "one", "three", "two"]
    assert len(await every(admin, "/v1/users", 1)) == 4
    for pattern in ("python:3*", "node:*"):
        await admin.put("/v1/images/mappings", json={"pattern": pattern, "image": "base/x"})
    assert [m["pattern"] for m in await every(admin, "/v1/images/mappings", 1)] == ["node:*", "python:3*"]
    assert (await admin.delete("/v1/images/mappings", params={"pattern": "node:*"})).status_code == 204
    assert len(await every(admin, "/v1/images/mappings", 1)) == 1
