"""Every refusal is a problem document that names what is wrong, and never a 500."""

from __future__ import annotations

import json

import httpx
from tests.integration.conftest import World


def problem(response: httpx.Response, status: int, code: str, field: str | None = None) -> dict:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["code"] == code
    assert body["status"] == status
    assert body["request_id"] == response.headers["x-request-id"]
    if field is not None:
        assert [e["field"] for e in body["errors"]] == [field], body
    return body


BAD_BODIES = [
    (b'{"name": "a", "name": "b"}', "name"),
    (b'{"name": "a\\u0000b"}', "name"),
    (b'{"name": "\\ud800"}', "name"),
    (b'{"na\\u0000me": "x"}', "body (a key)"),
    (b'{"name": ' + b"[" * 100_000, "body"),
    (b'{"name": ' + b"[" * 50 + b"]" * 50 + b"}", "name" + ".0" * 15),
    (b'{"name": 1' + b"0" * 5000 + b"}", "name"),
    (b'{"name": NaN}', "name"),
    (b'{"name": -Infinity}', "name"),
    (b'{"name": 1e999}', "name"),
    (b"{", "body"),
    (b"", "body"),
    (b"[]", "body"),
    (b"null", "body"),
    (b'"text"', "body"),
    (b"\xff\xfe", "body"),
    (b"{}", "name"),
    (b'{"name": 5}', "name"),
    (b'{"name": "x", "more": 1}', "more"),
    (b'{"name": ""}', "name"),
    (b'{"name": "UPPER"}', "name"),
    (b'{"name": "a b; curl"}', "name"),
    (b'{"name": "-h"}', "name"),
    (b'{"name": "api"}', "name"),
    ('{"name": "bücher"}'.encode(), "name"),
    (json.dumps({"name": "a" * 5_000_000}).encode(), "name"),
]


async def test_a_body_that_cannot_be_accepted_names_its_field(member):
    headers = {"Content-Type": "application/json"}
    for body, field in BAD_BODIES:
        problem(await member.post("/v1/apps", content=body, headers=headers), 422, "invalid_field", field)


async def test_a_body_of_another_type_is_415(member):
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        answer = await member.post("/v1/apps", content=b'{"name": "x"}', headers={"Content-Type": kind})
        problem(answer, 415, "unsupported_media_type")


async def test_a_body_over_10_megabytes_is_refused_with_and_without_content_length(member):
    async def endless():
        for _ in range(200):
            yield b" " * 100_000

    headers = {"Content-Type": "application/json"}
    problem(await member.post("/v1/apps", content=b" " * 10_000_001, headers=headers), 413, "too_large")
    problem(await member.post("/v1/apps", content=endless(), headers=headers), 413, "too_large")


async def test_an_unknown_address_and_method_are_problems_too(member):
    problem(await member.get("/v1/nothing"), 404, "not_found")
    problem(await member.get("/wp-login.php"), 404, "not_found")
    problem(await member.get("/v1/apps/"), 404, "not_found")
    answer = await member.put("/v1/apps", json={})
    problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "GET, POST"


ODD_NAMES = ["nope", "a%00b", "%ff", "app_aaaaaaaaaaaaaaaaaaaa", "..%2f..%2fetc", "x" * 500, "%F0%9F%98%80", "a%0Ab"]


async def test_an_odd_name_in_the_address_is_404(member):
    for name in ODD_NAMES:
        problem(await member.get(f"/v1/apps/{name}"), 404, "not_found")


BAD_QUERIES = [
    ("limit=0", "limit"),
    ("limit=201", "limit"),
    ("limit=x", "limit"),
    ("limit=99999999999999999999", "limit"),
    ("cursor=x", "cursor"),
    ("cursor=%00", "cursor"),
    ("cursor=WyJcdTAwMDAiXQ", "cursor"),
    ("cursor=e30", "cursor"),
    ("name=%00", "name"),
    ("name=" + "a" * 64, "name"),
]


async def test_a_query_that_cannot_be_accepted_names_its_field(member):
    for query, field in BAD_QUERIES:
        problem(await member.get(f"/v1/apps?{query}"), 422, "invalid_field", field)


async def test_a_cursor_of_another_list_is_refused(member):
    for path in ("/v1/instances", "/v1/tokens"):
        problem(await member.get(path, params={"cursor": "WyJhIl0"}), 422, "invalid_field", "cursor")


async def test_an_odd_idempotency_key_is_refused_by_name(member):
    for key in ("", " ", "a b", "x" * 256):
        answer = await member.post("/v1/apps", json={"name": "x"}, headers={"Idempotency-Key": key})
        problem(answer, 422, "invalid_field", "Idempotency-Key")


async def test_a_bug_of_ours_tells_a_request_id_and_nothing_else(world: World, monkeypatch, capsys):
    def break_it(*_args, **_more):
        raise RuntimeError("secret words")

    monkeypatch.setattr("shellwego.control.services.apps.create_app", break_it)
    headers = {"X-Request-Id": "mine-1234", "Authorization": f"Bearer {world.first.token}"}
    inner = httpx.ASGITransport(app=world.api)  # A 500 is in no document of ours.
    async with httpx.AsyncClient(transport=inner, base_url="http://api.test") as client:
        answer = await client.post("/v1/apps", json={"name": "x"}, headers=headers)
    assert "secret words" not in answer.text
    assert problem(answer, 500, "internal")["request_id"] == "mine-1234"
    assert world.first.token not in capsys.readouterr().out


async def test_security_headers_are_on_every_answer(member):
    for path in ("/v1/apps", "/v1/nothing", "/health"):
        headers = (await member.get(path)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "access-control-allow-origin" not in headers


async def test_the_pages_of_the_api_need_nothing_from_elsewhere(world: World):
    """An operator without internet reads them too."""
    async with world.client() as client:
        for page in ("/docs", "/redoc"):
            text = (await client.get(page)).text
            assert "https://" not in text.replace("https://www.w3.org", "")
            for part in text.split('"'):
                if part.startswith("/docs/static/"):
                    found = await client.get(part)
                    assert found.status_code == 200
                    assert len(found.content) > 1000
        assert (await client.get("/docs/static/..%2f__init__.py")).status_code == 404
        document = (await client.get("/openapi.json")).json()
        assert document["openapi"].startswith("3.1")
