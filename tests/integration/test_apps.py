"""Apps over the API."""

from __future__ import annotations


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
