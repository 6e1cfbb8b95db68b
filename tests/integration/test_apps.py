"""Apps over the API."""

from __future__ import annotations

from tests.integration.conftest import World

from shellwego.control.store.records import AppRecord
from shellwego.core.ids import AppId


async def test_an_app_is_made_seen_scaled_stopped_started_and_deleted(member):
    """The whole life of an app that never ran, as its owner sees it."""
    made = await member.post("/v1/apps", json={"name": "blog"})
    assert made.status_code == 201, made.text
    assert made.json()["status"] == "empty"
    assert made.json()["url"] == "http://blog.cloud.test/"
    app = made.json()["id"]
    assert (await member.get(f"/v1/apps/{app}")).json() == (await member.get("/v1/apps/blog")).json()
    scaled = await member.patch("/v1/apps/blog", json={"replicas": {"web": 3}})
    assert scaled.json()["processes"]["web"] == {"desired": 3, "healthy": 0, "total": 0}
    assert (await member.post("/v1/apps/blog/stop")).json()["status"] == "stopped"
    assert (await member.post("/v1/apps/blog/start")).json()["status"] == "empty"
    gone = await member.delete("/v1/apps/blog")
    assert gone.status_code == 202
    assert gone.json()["status"] == "deleting"
    assert (await member.patch("/v1/apps/blog", json={"replicas": {"web": 1}})).json()["code"] == "conflict"


async def test_the_status_counts_all_apps_however_many(world: World, admin):
    """It is made of pages, and an app at the end of one must be counted once."""
    async with world.store.writing() as work:
        [owner] = await work.organisations.page(limit=1)
        for number in range(101):
            id = AppId(work.new_id("app"))
            await work.for_the_cloud().apps.add(AppRecord(id, owner.id, f"app-{number}", work.now, work.now))
    await admin.post("/v1/apps/app-7/stop")
    assert (await admin.get("/v1/status")).json()["apps"] == {"empty": 100, "stopped": 1}
