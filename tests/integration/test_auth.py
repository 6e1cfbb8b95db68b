"""Who gets in, who doesn't, and when it ends."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import json

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from tests.integration.conftest import World
from tests.integration.test_problems import problem


async def login(world: World, client) -> dict:
    body = {"email": world.first.email, "password": world.first.password}
    answer = await client.post("/v1/auth/login", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_a_login_opens_refreshes_and_ends(world: World):
    async with world.client() as client:
        first = await login(world, client)
        me = (await client.get("/v1/auth/me", headers=bearer(first["access_token"]))).json()
        assert (me["email"], me["operator"]) == ("admin@cloud.test", True)
        second = (await client.post("/v1/auth/refresh", json={"refresh_token": first["refresh_token"]})).json()
        assert second["refresh_token"] != first["refresh_token"]
        answer = await client.post("/v1/auth/logout", json={"refresh_token": second["refresh_token"]})
        assert answer.status_code == 204
        for token in (first["access_token"], second["access_token"]):
            problem(await client.get("/v1/auth/me", headers=bearer(token)), 401, "unauthenticated")
        again = await client.post("/v1/auth/refresh", json={"refresh_token": second["refresh_token"]})
        problem(again, 401, "unauthenticated")


async def test_a_refresh_token_used_twice_ends_the_whole_session(world: World):
    """Whoever of owner and thief comes second, both are out."""
    async with world.client() as client:
        first = await login(world, client)
        second = (await client.post("/v1/auth/refresh", json={"refresh_token": first["refresh_token"]})).json()
        reused = await client.post("/v1/auth/refresh", json={"refresh_token": first["refresh_token"]})
        problem(reused, 401, "unauthenticated")
        problem(await client.get("/v1/auth/me", headers=bearer(second["access_token"])), 401, "unauthenticated")
        late = await client.post("/v1/auth/refresh", json={"refresh_token": second["refresh_token"]})
        problem(late, 401, "unauthenticated")


async def test_an_access_token_lives_fifteen_minutes(world: World):
    async with world.client() as client:
        token = (await login(world, client))["access_token"]
        world.now.forward(minutes=14, seconds=59)
        assert (await client.get("/v1/auth/me", headers=bearer(token))).status_code == 200
        world.now.forward(seconds=2)
        problem(await client.get("/v1/auth/me", headers=bearer(token)), 401, "unauthenticated")


async def test_forged_tokens_open_nothing(world: World):
    """Every known trick with a JWT: none, HS256 with the public key, another key, missing or wrong claims."""
    async with world.client() as client:
        good = (await login(world, client))["access_token"]
        header, payload, signature = good.split(".")
        claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
        other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        public_pem = (
            world.parts.signing._private.public_key()
            .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
            .decode()
        )

        def raw(head: dict, body: dict, end: str = "") -> str:
            parts = (base64.urlsafe_b64encode(json.dumps(p).encode()).decode().rstrip("=") for p in (head, body))
            return ".".join((*parts, end))

        def hs256(body: dict) -> str:
            import hashlib
            import hmac

            text = raw({"alg": "HS256", "typ": "JWT"}, body).rstrip(".")
            mac = hmac.new(public_pem.encode(), text.encode(), hashlib.sha256).digest()
            return f"{text}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"

        def signed(body: dict, **options) -> str:
            return jwt.encode(body, world.parts.signing._private, algorithm="RS256", **options)

        forged = [
            raw({"alg": "none"}, claims),
            raw({"alg": "None"}, claims, signature),
            hs256(claims),
            jwt.encode(claims, other, algorithm="RS256"),
            jwt.encode(claims, other, algorithm="RS256", headers={"kid": "../../dev/null"}),
            signed({**claims, "aud": "other"}),
            signed({**claims, "iss": "cld_other"}),
            signed({**claims, "exp": 1}),
            signed({**claims, "exp": "soon"}),
            signed({**claims, "nbf": claims["exp"] + 3600}),
            signed({**claims, "sub": "usr_someoneelse"}),
            signed({**claims, "sid": "ses_nothing"}),
            signed(claims, headers={"crit": ["b64"], "b64": False}),
            *(signed({k: v for k, v in claims.items() if k != missing}) for missing in claims),
            f"{header}.{payload}.",
            f"{header}.{payload}.{signature[:-4]}AAAA",
            "x.y.z",
            "swg_" + "0" * 64,
            "swg_",
            "a" * 5000,
            "ü",
        ]
        for token in forged:
            answer = await client.get("/v1/auth/me", headers=[(b"authorization", f"Bearer {token}".encode())])
            problem(answer, 401, "unauthenticated")
        assert (await client.get("/v1/auth/me", headers=bearer(good))).status_code == 200
        problem(await client.get("/v1/auth/me"), 401, "unauthenticated")
        problem(await client.get("/v1/auth/me", headers={"Authorization": f"Basic {good}"}), 401, "unauthenticated")
        problem(await client.get(f"/v1/auth/me?access_token={good}"), 401, "unauthenticated")


async def test_an_api_token_is_shown_once_used_and_revoked(world: World, member):
    world.now.forward(seconds=1)
    made = (await member.post("/v1/tokens", json={"name": "ci", "expires_in_days": 1})).json()
    assert made["secret"].startswith("swg_")
    listed = (await member.get("/v1/tokens")).json()["items"]
    assert [t["name"] for t in listed] == ["ci", "t"]
    assert "secret" not in listed[0]
    async with world.client(made["secret"]) as client:
        assert (await client.get("/v1/auth/me")).json()["token"] == made["id"]
        assert (await client.get("/v1/tokens")).json()["items"][0]["last_used_at"] is not None
        world.now.forward(days=1, seconds=1)
        problem(await client.get("/v1/auth/me"), 401, "unauthenticated")
    assert (await member.delete(f"/v1/tokens/{made['id']}")).status_code == 204
    problem(await member.delete(f"/v1/tokens/{made['id']}"), 404, "not_found")
    async with world.client(made["secret"]) as client:
        problem(await client.get("/v1/auth/me"), 401, "unauthenticated")


async def test_a_tokens_name_means_one_token(world: World, member):
    """`tokens revoke ci` takes the pipeline's token away, not also the one of a laptop that somebody named alike."""
    wish = {"name": "ci", "expires_in_days": 1}
    first = (await member.post("/v1/tokens", json=wish)).json()
    problem(await member.post("/v1/tokens", json=wish), 409, "already_exists")
    await member.delete(f"/v1/tokens/{first['id']}")
    assert (await member.post("/v1/tokens", json=wish)).status_code == 201
    world.now.forward(days=1, seconds=1)
    assert (await member.post("/v1/tokens", json=wish)).status_code == 201, "what has expired holds no name"


async def test_a_tokens_name_means_one_token_also_of_those_asked_for_at_once(member):
    answers = await asyncio.gather(*(member.post("/v1/tokens", json={"name": "ci"}) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 7
    assert [token["name"] for token in (await member.get("/v1/tokens")).json()["items"]].count("ci") == 1


async def test_the_database_holds_no_usable_secret(world: World, member):
    """A stolen copy of the database opens nothing, not even by answers kept for retries."""
    made = (await member.post("/v1/tokens", json={"name": "x"}, headers={"Idempotency-Key": "k"})).json()
    async with world.store.reading() as work:
        key = await work.idempotency.find_key(*(await _who(world, made["secret"])), "k")
        token = await work.for_the_cloud().tokens.get(made["id"])
    assert made["secret"].encode() not in key.body
    assert made["secret"] not in token.secret_hash
    replayed = await member.post("/v1/tokens", json={"name": "x"}, headers={"Idempotency-Key": "k"})
    assert replayed.json() == made


async def _who(world: World, secret: str):
    async with world.client(secret) as client:
        me = (await client.get("/v1/auth/me")).json()
    return me["organisation"], me["user"]


async def test_tokens_and_sessions_die_with_their_user(world: World, member):
    secret = await world.new_user("gone")
    async with world.client(secret) as client:
        user = (await client.get("/v1/auth/me")).json()["user"]
        async with world.store.writing() as work:
            await work.for_the_cloud().users.update(user, disabled_at=work.now)
        problem(await client.get("/v1/auth/me"), 401, "unauthenticated")


async def test_guessing_is_slowed_down_without_locking_the_owner_out(world: World):
    async with world.client(client=("10.0.0.1", 1)) as thief, world.client(client=("10.0.0.2", 1)) as owner:
        for _ in range(5):
            answer = await thief.post("/v1/auth/login", json={"email": world.first.email, "password": "guess"})
            problem(answer, 401, "unauthenticated")
        blocked = await thief.post("/v1/auth/login", json={"email": world.first.email.upper(), "password": "guess"})
        problem(blocked, 429, "too_many_requests")
        assert int(blocked.headers["retry-after"]) > 0
        await login(world, owner)


async def test_an_unknown_address_is_told_in_the_same_words(world: World):
    async with world.client() as client:
        unknown = await client.post("/v1/auth/login", json={"email": "who@x.test", "password": "x"})
        wrong = await client.post("/v1/auth/login", json={"email": world.first.email, "password": "x"})
        assert unknown.json()["detail"] == wrong.json()["detail"]


OPERATORS_ALONE = [
    ("GET", "/v1/nodes", None),
    ("GET", "/v1/users", None),
    ("GET", "/v1/organisations", None),
    ("POST", "/v1/organisations", {"name": "x"}),
    ("POST", "/v1/users", {"email": "a@b.test", "password": "x" * 12, "organisation": "default"}),
    ("PUT", "/v1/images/mappings", {"pattern": "a", "image": "b"}),
    ("DELETE", "/v1/images/mappings?pattern=a", None),
]


async def test_what_concerns_the_cloud_is_for_operators(member):
    for method, path, body in OPERATORS_ALONE:
        problem(await member.request(method, path, json=body), 403, "forbidden")


async def test_the_first_secrets_are_made_once(world: World):
    from shellwego.control.services.cloud import ensure_cloud

    def never(_secrets):
        raise AssertionError("a second set of secrets")

    again = await ensure_cloud(
        world.store,
        id=world.cloud,
        domain="cloud.test",
        passwords=world.parts.passwords,
        random_bytes=world.parts.random_bytes,
        keep=never,
    )
    assert again.id == world.cloud
    assert again.created_at <= dt.datetime.now(dt.UTC)


async def test_a_lost_database_begins_again_with_the_secrets_that_are_there(world: World, tmp_path):
    """New ones would take the place of the operator's token, which opens the right database once it is put back."""
    from shellwego.control.services.cloud import ensure_cloud
    from shellwego.control.services.tokens import caller_of_token
    from shellwego.control.store import Store, migrate
    from shellwego.control.store.engine import sqlite_url

    await migrate(sqlite_url(tmp_path / "new.db"))
    store = Store(sqlite_url(tmp_path / "new.db"))
    kept = []
    await ensure_cloud(
        store,
        id=world.cloud,
        domain="cloud.test",
        passwords=world.parts.passwords,
        random_bytes=world.parts.random_bytes,
        keep=kept.append,
        kept=world.first,
    )
    async with store.reading() as work:
        caller, _ = await caller_of_token(work, world.first.token)
    await store.close()
    assert kept == [world.first]
    assert (caller.email, caller.operator) == (world.first.email, True)
