"""Registries are slow, busy, broken or hostile; a deploy must end soon, with the reason, and with nothing half-done."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import email.utils
import ipaddress
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.images import Layer, digest_of, gzip_layer, tar_of, write_layout
from tests.scripted_registry import Answer, Request, ScriptedRegistry

from shellwego.core.errors import ImageNotFound, ImageRefused, RegistryUnavailable
from shellwego.drivers.images import manifest as m
from shellwego.drivers.images.limits import ImageLimits, Patience
from shellwego.drivers.images.port import Credentials, PullProgress
from shellwego.drivers.images.store import DirectoryImageStore

PATIENCE = Patience(attempts=3, first_wait_seconds=0.01, longest_wait_seconds=0.2)
HASTY = Patience(
    attempts=3,
    first_wait_seconds=0.01,
    longest_wait_seconds=0.2,
    silence_seconds=0.3,
    metadata_seconds=1.0,
    rate_window_seconds=0.2,
)
"""For registries that hang: how long we wait for them is not what these tests are about."""
ALI = Credentials("ali", "open:sesame")
BASIC = "Basic " + base64.b64encode(b"ali:open:sesame").decode()
BIG = bytes(range(256)) * 20_000


@pytest.fixture
async def registry() -> AsyncIterator[ScriptedRegistry]:
    async with ScriptedRegistry().serving() as registry:
        yield registry


@pytest.fixture
def store(tmp_path: Path) -> DirectoryImageStore:
    return DirectoryImageStore(tmp_path / "store", patience=PATIENCE)


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    plain = tar_of({"said": "hello", "big": BIG})
    return write_layout(tmp_path / "layout", [Layer("application/vnd.oci.image.layer.v1.tar", plain, digest_of(plain))])


@pytest.fixture
def app(registry: ScriptedRegistry, layout: Path) -> str:
    registry.add(layout, "me/app:1")
    return f"{registry.address}/me/app:1"


def leftovers(store_directory: Path) -> list[str]:
    """What a refused or failed pull left in the store, beyond what it may resume from."""
    places = ("blobs/sha256", "rootfs", "unpacking", "pins", "images", "trash")
    return [str(path) for place in places for path in (store_directory / place).iterdir()]


def layer_of(registry: ScriptedRegistry) -> str:
    return max(registry.blobs, key=lambda digest: len(registry.blobs[digest]))


def for_layer(registry: ScriptedRegistry, answer: Callable[[Request], Answer], *, times: int = 1_000) -> None:
    """Answer the first `times` requests for the layer so."""
    left = [times]

    def rule(request: Request) -> Answer | None:
        if layer_of(registry) not in request.path or left[0] == 0:
            return None
        left[0] -= 1
        return answer(request)

    registry.rules.append(rule)


def cut_off(registry: ScriptedRegistry, *, after: int, times: int = 1) -> None:
    """Promise all of the layer that was asked for, send `after` bytes, hang up."""

    def answer(request: Request) -> Answer:
        whole = registry.serve_well(request)
        return Answer(whole.status, whole.body[:after], whole.headers, length=len(whole.body))

    for_layer(registry, answer, times=times)


# Authentication.


async def test_basic_authentication(app: str, registry: ScriptedRegistry, store: DirectoryImageStore) -> None:
    def guard(request: Request) -> Answer | None:
        if request.headers.get("authorization") == BASIC:
            return None
        return Answer(401, headers={"WWW-Authenticate": 'Basic realm="r"'})

    registry.rules.append(guard)
    with pytest.raises(ImageNotFound, match="without credentials"):
        await store.resolve(app)
    assert ((await store.ensure(app, credentials=ALI)).rootfs / "said").read_text() == "hello"


def token_rules(registry: ScriptedRegistry, *, needs: str | None) -> list[str]:
    """Bearer tokens as Docker Hub gives them: `needs` is the Authorization that the token service wants. The scopes."""
    scopes: list[str] = []

    def guard(request: Request) -> Answer | None:
        if request.path.startswith("/token"):
            if needs is not None and request.headers.get("authorization") != needs:
                return Answer(401, b"{}")
            query = parse_qs(urlsplit(request.path).query)
            scopes.append(f"{query['service'][0]} {query['scope'][0]}")
            return Answer(body=json.dumps({"token": f"t{len(scopes)}"}).encode())
        if request.headers.get("authorization") == f"Bearer t{len(scopes)}" and scopes:
            return None
        realm = f'Bearer realm="http://{registry.address}/token",service="r",scope="repository:me/app:pull"'
        return Answer(401, headers={"WWW-Authenticate": realm})

    registry.rules.append(guard)
    return scopes


@pytest.mark.parametrize("credentials", [None, ALI])
async def test_token_authentication(
    credentials: Credentials | None, app: str, registry: ScriptedRegistry, store: DirectoryImageStore
) -> None:
    """Docker Hub, GitHub and GitLab all want it, even for public images."""
    scopes = token_rules(registry, needs=BASIC if credentials else None)
    assert ((await store.ensure(app, credentials=credentials)).rootfs / "said").read_text() == "hello"
    # One token for the manifest, and one for the session that fetches the layer.
    assert scopes == ["r repository:me/app:pull"] * 2


async def test_a_token_that_expires_in_the_middle_is_renewed(
    app: str, registry: ScriptedRegistry, store: DirectoryImageStore
) -> None:
    """Large images take longer than tokens last."""
    scopes = token_rules(registry, needs=None)
    cut_off(registry, after=len(BIG) // 2)
    cut = registry.rules.pop()

    def cut_and_expire(request: Request) -> Answer | None:
        answer = cut(request) if "authorization" in request.headers else None
        if answer is not None:
            scopes.append("expired")
        return answer

    registry.rules.insert(0, cut_and_expire)
    assert ((await store.ensure(app)).rootfs / "said").read_text() == "hello"
    assert scopes[2:] == ["expired", "r repository:me/app:pull"]


async def test_wrong_credentials_are_not_an_outage(
    app: str, registry: ScriptedRegistry, store: DirectoryImageStore
) -> None:
    token_rules(registry, needs="Basic somebody else")
    with pytest.raises(ImageNotFound, match="to ali"):
        await store.resolve(app, credentials=ALI)


async def test_a_redirect_to_another_host_gets_no_credentials(
    app: str, registry: ScriptedRegistry, store: DirectoryImageStore
) -> None:
    """Registries send layers from storage that belongs to somebody else (CVE-2020-15157)."""
    async with ScriptedRegistry().serving() as storage:
        storage.blobs = registry.blobs
        seen: list[str] = []

        def guard(request: Request) -> Answer | None:
            if request.headers.get("authorization") != BASIC:
                return Answer(401, headers={"WWW-Authenticate": 'Basic realm="r"'})
            if request.is_blob:
                return Answer(307, headers={"Location": f"http://{storage.address}{request.path}"})
            return None

        registry.rules.append(guard)
        storage.rules.append(lambda request: seen.append(request.headers.get("authorization", "")))
        assert ((await store.ensure(app, credentials=ALI)).rootfs / "said").read_text() == "hello"
        assert set(seen) == {""}


# Slow, busy and broken.


async def test_a_download_goes_on_where_it_stopped(
    app: str, registry: ScriptedRegistry, store: DirectoryImageStore
) -> None:
    """On a bad line a large image would otherwise never arrive."""
    cut_off(registry, after=2_000_000, times=2)
    await store.ensure(app)
    ranges = [r.headers.get("range") for r in registry.requests if layer_of(registry) in r.path]
    assert ranges == [None, "bytes=2000000-", "bytes=4000000-"]


async def test_a_later_pull_goes_on_where_the_last_one_gave_up(
    app: str, registry: ScriptedRegistry, store: DirectoryImageStore, tmp_path: Path
) -> None:
    cut_off(registry, after=2_000_000)
    for_layer(registry, lambda _: Answer(500), times=PATIENCE.attempts)
    with pytest.raises(RegistryUnavailable, match="answered 500"):
        await store.ensure(app)
    assert ((await DirectoryImageStore(tmp_path / "store", patience=PATIENCE).ensure(app)).rootfs / "said").exists()
    assert registry.requests[-1].headers["range"] == "bytes=2000000-"


async def test_a_rotten_start_is_thrown_away(
    app: str, registry: ScriptedRegistry, store: DirectoryImageStore, tmp_path: Path
) -> None:
    """What lies on disk since the last try may be anything by now; the image is not to blame."""
    partial = tmp_path / "store/partial" / layer_of(registry).removeprefix("sha256:")
    partial.write_bytes(b"x" * 1000)
    assert ((await store.ensure(app)).rootfs / "said").read_text() == "hello"
    assert not partial.exists()


async def test_a_registry_without_ranges_starts_over(
    app: str, registry: ScriptedRegistry, store: DirectoryImageStore
) -> None:
    cut_off(registry, after=2_000_000)
    for_layer(registry, lambda request: Answer(body=registry.blobs[layer_of(registry)]))
    assert ((await store.ensure(app)).rootfs / "said").read_text() == "hello"


@pytest.mark.parametrize(
    "answer", [Answer(206, BIG, {"Content-Range": "bytes 7-9/10"}), Answer(416), Answer(206, b"x")]
)
async def test_a_registry_that_lies_about_ranges_starts_over(
    answer: Answer, app: str, registry: ScriptedRegistry, store: DirectoryImageStore
) -> None:
    cut_off(registry, after=2_000_000)
    for_layer(registry, lambda _: answer, times=1)
    assert ((await store.ensure(app)).rootfs / "said").read_text() == "hello"


@pytest.mark.parametrize("status", [500, 502, 503, 504, 408])
async def test_a_stumbling_registry_is_asked_again(
    status: int, app: str, registry: ScriptedRegistry, store: DirectoryImageStore
) -> None:
    left = [2]

    def stumble(request: Request) -> Answer | None:
        left[0] -= 1
        return Answer(status) if left[0] >= 0 else None

    registry.rules.append(stumble)
    await store.ensure(app)


@pytest.mark.parametrize("retry_after", ["0", "http date", "nonsense", "-5", ""])
async def test_too_many_requests_are_waited_out(
    retry_after: str, app: str, registry: ScriptedRegistry, store: DirectoryImageStore
) -> None:
    """Docker Hub limits everybody who shares an address; a deploy must not fail for it."""
    if retry_after == "http date":
        retry_after = email.utils.format_datetime(dt.datetime.now(dt.UTC), usegmt=True)
    left = [1]

    def limit(request: Request) -> Answer | None:
        left[0] -= 1
        return Answer(429, headers={"Retry-After": retry_after}) if left[0] >= 0 else None

    registry.rules.append(limit)
    await store.ensure(app)


async def test_a_long_retry_after_is_passed_on(
    app: str, registry: ScriptedRegistry, store: DirectoryImageStore
) -> None:
    """Hours of waiting belong to whoever schedules the deploy."""
    registry.rules.append(lambda _: Answer(429, headers={"Retry-After": "3600"}))
    with pytest.raises(RegistryUnavailable, match="come back in 3600 s"):
        await store.resolve(app)
    assert len(registry.requests) == 1


async def hang(_: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def trickle(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("stream", [hang, trickle])
@pytest.mark.parametrize("what", ["manifest", "layer"])
async def test_a_registry_that_hangs_or_trickles_is_an_outage(
    stream: Callable[[asyncio.StreamWriter], Awaitable[None]],
    what: str,
    app: str,
    registry: ScriptedRegistry,
    tmp_path: Path,
) -> None:
    """Each phase has its own limit, so the deploy's owner hears of it in seconds, not in an hour."""
    registry.rules.append(
        lambda request: (
            Answer(length=len(registry.blobs[layer_of(registry)]), stream=stream)
            if (request.is_manifest if what == "manifest" else layer_of(registry) in request.path)
            else None
        )
    )
    with pytest.raises(RegistryUnavailable, match=r"silent|finish within|bytes a second"):
        async with asyncio.timeout(30):
            await DirectoryImageStore(tmp_path / "store", patience=HASTY).ensure(app)


async def test_one_hanging_registry_does_not_block_another(
    app: str, registry: ScriptedRegistry, store: DirectoryImageStore, tmp_path: Path
) -> None:
    async with ScriptedRegistry().serving() as stuck:
        stuck.rules.append(lambda _: Answer(length=5, stream=hang))
        waiting = asyncio.ensure_future(store.ensure(f"{stuck.address}/a:1"))
        await store.ensure(app)
        assert not waiting.done()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting


async def test_layers_come_three_at_a_time(
    registry: ScriptedRegistry, store: DirectoryImageStore, tmp_path: Path
) -> None:
    """One after the other is slow; all at once is rude, and starves the node's apps."""
    layers = [gzip_layer(tar_of({f"f{n}": str(n)})) for n in range(6)]
    registry.add(write_layout(tmp_path / "six", layers), "six:1")
    running, most, release = [0], [0], asyncio.Event()

    async def hold(writer: asyncio.StreamWriter) -> None:
        running[0] += 1
        most[0] = max(most[0], running[0])
        if running[0] == 3:
            release.set()
        async with asyncio.timeout(10):
            await release.wait()
        running[0] -= 1

    async def serve(writer: asyncio.StreamWriter, body: bytes) -> None:
        await hold(writer)
        writer.write(body)
        await writer.drain()

    blobs = {layer.diff_id: layer.blob for layer in layers}
    by_digest = {digest_of(blob): blob for blob in blobs.values()}

    def rule(request: Request) -> Answer | None:
        body = by_digest.get(request.path.rpartition("/")[2])
        if body is None:
            return None
        return Answer(length=len(body), stream=lambda writer: serve(writer, body))

    registry.rules.append(rule)
    seen: list[PullProgress] = []
    image = await store.ensure(f"{registry.address}/six:1", on_progress=seen.append)
    assert len(list(image.rootfs.iterdir())) == 6
    assert most == [3]
    assert {p.layer for p in seen if p.done_bytes == p.total_bytes} == set(by_digest)


# Hostile.


@pytest.mark.parametrize("times", [3, 1_000])
async def test_redirects_end(times: int, app: str, registry: ScriptedRegistry, store: DirectoryImageStore) -> None:
    left = [times]

    def redirect(request: Request) -> Answer | None:
        left[0] -= 1
        return Answer(302, headers={"Location": request.path}) if left[0] >= 0 else None

    registry.rules.append(redirect)
    if times == 3:
        await store.resolve(app)
    else:
        with pytest.raises(RegistryUnavailable, match="more than 5 times"):
            await store.resolve(app)
        assert len(registry.requests) == PATIENCE.redirects + 1


@pytest.mark.parametrize(
    "location", ["ftp://x/", "file:///etc/passwd", "gopher://127.0.0.1/", "http://[", "//", "\x7f"]
)
async def test_redirects_to_nonsense_are_refused(
    location: str, app: str, registry: ScriptedRegistry, tmp_path: Path
) -> None:
    registry.rules.append(lambda _: Answer(302, headers={"Location": location}))
    with pytest.raises((ImageRefused, RegistryUnavailable)):
        await DirectoryImageStore(tmp_path / "hasty", patience=HASTY).resolve(app)


async def test_content_with_another_digest_is_refused(
    app: str, registry: ScriptedRegistry, store: DirectoryImageStore, tmp_path: Path
) -> None:
    """A registry, or whoever sits before it, must not be able to change what runs."""
    for_layer(registry, lambda _: Answer(body=bytes(len(registry.blobs[layer_of(registry)]))))
    with pytest.raises(ImageRefused, match="wrong content"):
        await store.ensure(app)
    assert leftovers(tmp_path / "store") == []
    assert list((tmp_path / "store/partial").iterdir()) == []


@pytest.mark.parametrize("difference", [-1, 1, 10_000_000])
@pytest.mark.parametrize("announced", [True, False])
async def test_a_layer_of_another_size_is_refused(
    difference: int,
    announced: bool,
    app: str,
    registry: ScriptedRegistry,
    store: DirectoryImageStore,
    tmp_path: Path,
) -> None:
    """Otherwise the limit on sizes is only a promise of the attacker."""
    whole = registry.blobs[layer_of(registry)]
    body = (whole + bytes(20_000_000))[: len(whole) + difference]

    async def chunked(writer: asyncio.StreamWriter) -> None:
        writer.write(b"%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n")
        await writer.drain()

    def answer(_: Request) -> Answer:
        if announced:
            return Answer(body=body)
        return Answer(headers={"Transfer-Encoding": "chunked"}, length=-1, stream=chunked)

    for_layer(registry, answer)
    with pytest.raises((ImageRefused, RegistryUnavailable)) as caught:
        await store.ensure(app)
    if announced or difference > 0:
        assert isinstance(caught.value, ImageRefused)
        assert list((tmp_path / "store/partial").iterdir()) == []
        assert leftovers(tmp_path / "store") == []


async def test_a_manifest_with_another_digest_is_refused(
    app: str, registry: ScriptedRegistry, store: DirectoryImageStore
) -> None:
    digest = (await store.resolve(app)).digest
    registry.rules.append(lambda r: Answer(body=b'{"schemaVersion": 2}') if r.is_manifest else None)
    with pytest.raises(ImageRefused, match="instead of its manifest"):
        await DirectoryImageStore(Path(store._directory), patience=PATIENCE).resolve(
            f"{app.rpartition(':')[0]}@{digest}"
        )


@pytest.mark.parametrize("announced", [True, False])
async def test_a_manifest_bomb_is_refused(
    announced: bool, app: str, registry: ScriptedRegistry, store: DirectoryImageStore
) -> None:
    async def for_ever(writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b" " * 100_000)
            await writer.drain()

    registry.rules.append(lambda _: Answer(length=1 << 40, stream=for_ever) if announced else Answer(stream=for_ever))
    if not announced:
        registry.rules[-1] = lambda _: Answer(body=b" " * (ImageLimits().manifest_bytes + 1))
    with pytest.raises(ImageRefused, match="more than"):
        await store.resolve(app)


@pytest.mark.parametrize("body", [b"", b"<html>", b"null", b"{}", b"\xff\xfe", b"[" * 100_000])
async def test_nonsense_is_refused(
    body: bytes, app: str, registry: ScriptedRegistry, store: DirectoryImageStore
) -> None:
    """Captive portals and error pages with status 200 exist."""
    registry.rules.append(lambda _: Answer(body=body))
    with pytest.raises(ImageRefused):
        await store.resolve(app)


async def test_an_index_leads_to_this_node_s_image(
    registry: ScriptedRegistry, store: DirectoryImageStore, layout: Path
) -> None:
    """Most public images are indexes; and the index's own digest must go on working without the registry."""
    digest = registry.add(layout, "multi:inner")
    size = len(registry.manifests[f"/v2/multi/manifests/{digest}"][1])
    entry = {"mediaType": m.OCI_MANIFEST, "digest": digest, "size": size}
    index = {
        "schemaVersion": 2,
        "mediaType": m.OCI_INDEX,
        "manifests": [
            entry | {"digest": "sha256:" + "0" * 64, "platform": {"os": "linux", "architecture": "s390x"}},
            entry | {"platform": {"os": "linux", "architecture": m.host_platform().architecture}},
            entry | {"digest": "sha256:" + "1" * 64, "platform": {"os": "unknown", "architecture": "unknown"}},
        ],
    }
    outer = registry.add_manifest("multi:1", json.dumps(index).encode(), m.OCI_INDEX)
    by_index = f"{registry.address}/multi@{outer}"
    assert (await store.resolve(f"{registry.address}/multi:1")).digest == digest
    first = await store.ensure(by_index)
    assert first.digest == digest
    registry.rules.append(lambda _: Answer(500))
    assert await store.ensure(by_index) == first
    await store.collect_garbage({outer})
    assert await store.ensure(by_index) == first


async def test_an_index_of_itself_ends(registry: ScriptedRegistry, store: DirectoryImageStore) -> None:
    """Nobody can make a cycle of digests, but a chain as long as they like."""
    inner = registry.add_manifest("deep:0", b'{"schemaVersion": 2, "manifests": []}', m.OCI_INDEX)
    for depth in range(1, 9):
        size = len(registry.manifests[f"/v2/deep/manifests/{inner}"][1])
        entry = {"mediaType": m.OCI_INDEX, "digest": inner, "size": size}
        index = {"schemaVersion": 2, "mediaType": m.OCI_INDEX, "manifests": [entry]}
        inner = registry.add_manifest(f"deep:{depth}", json.dumps(index).encode(), m.OCI_INDEX)
    with pytest.raises(ImageRefused, match="nested too deep"):
        await store.resolve(f"{registry.address}/deep:8")


# Access and outages.


async def test_what_is_here_needs_no_registry(app: str, registry: ScriptedRegistry, store: DirectoryImageStore) -> None:
    """Apps must restart while the registry is down; and who may not ask the registry learns nothing from us."""
    found = await store.resolve(app)
    await store.ensure(found.reference)
    registry.rules.append(lambda _: Answer(500))
    assert (await store.ensure(found.reference)).digest == found.digest
    assert await store.resolve(found.reference) == found
    async with ScriptedRegistry().serving() as other:
        other.rules.append(lambda _: Answer(500))
        with pytest.raises(RegistryUnavailable):
            await store.resolve(f"{other.address}/me/app@{found.digest}")


def certificate(directory: Path) -> tuple[Path, ssl.SSLContext]:
    """A self-signed certificate for 127.0.0.1, and a server's context with it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = directory / "certificate.pem"
    pem.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (directory / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, directory / "key.pem")
    return pem, context


async def test_the_operator_s_own_authority_is_trusted_and_no_other(layout: Path, tmp_path: Path) -> None:
    """Companies sign their registries themselves."""
    pem, context = certificate(tmp_path)
    async with ScriptedRegistry().serving(tls=context) as registry:
        digest = registry.add(layout, "app:1")
        trusting = DirectoryImageStore(tmp_path / "a", patience=PATIENCE, extra_ca=pem)
        assert (await trusting.resolve(f"{registry.address}/app:1")).digest == digest
        with pytest.raises(RegistryUnavailable, match="certificate"):
            await DirectoryImageStore(tmp_path / "b", patience=PATIENCE).resolve(f"{registry.address}/app:1")
