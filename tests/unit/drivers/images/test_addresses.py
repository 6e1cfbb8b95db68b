"""A tenant names a registry; the node must not be talked into calling its own cloud's metadata service."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest
from tests.images import gzip_layer, tar_of, write_layout
from tests.scripted_registry import Answer, ScriptedRegistry

from shellwego.core.errors import ImageRefused, RegistryUnavailable
from shellwego.core.networks import parse_allowed_network
from shellwego.drivers.images.addresses import JudgingBackend, Reach, host_of, is_loopback_name, reach_of
from shellwego.drivers.images.limits import Patience
from shellwego.drivers.images.store import DirectoryImageStore


@pytest.mark.parametrize(
    ("address", "reach"),
    [
        ("1.1.1.1", Reach.GLOBAL),
        ("2606:4700::1111", Reach.GLOBAL),
        ("10.0.0.1", Reach.PRIVATE),
        ("192.168.1.1", Reach.PRIVATE),
        ("100.64.0.1", Reach.PRIVATE),
        ("fd00::1", Reach.PRIVATE),
        ("127.0.0.1", Reach.LOOPBACK),
        ("127.9.9.9", Reach.LOOPBACK),
        ("::1", Reach.LOOPBACK),
        ("::ffff:127.0.0.1", Reach.LOOPBACK),
        ("169.254.169.254", Reach.FORBIDDEN),
        ("::ffff:169.254.169.254", Reach.FORBIDDEN),
        ("64:ff9b::a9fe:a9fe", Reach.FORBIDDEN),
        ("2002:a9fe:a9fe::1", Reach.FORBIDDEN),
        ("fe80::1%eth0", Reach.FORBIDDEN),
        ("fd00:ec2::254", Reach.FORBIDDEN),
        ("100.100.100.200", Reach.FORBIDDEN),
        ("168.63.129.16", Reach.FORBIDDEN),
        ("0.0.0.0", Reach.FORBIDDEN),
        ("::", Reach.FORBIDDEN),
        ("224.0.0.1", Reach.FORBIDDEN),
        ("255.255.255.255", Reach.FORBIDDEN),
        ("240.0.0.1", Reach.FORBIDDEN),
    ],
)
def test_judges_addresses(address: str, reach: Reach) -> None:
    assert reach_of(address) is reach


@pytest.mark.parametrize(
    ("registry", "host"),
    [("r.example", "r.example"), ("r.example:5000", "r.example"), ("[::1]:5000", "::1"), ("[::1]", "::1")],
)
def test_finds_the_host(registry: str, host: str) -> None:
    assert host_of(registry) == host


def test_loopback_is_what_is_written_so() -> None:
    """A name that merely resolves to loopback may be anybody's."""
    assert all(map(is_loopback_name, ("localhost", "a.localhost", "127.0.0.1", "127.1.2.3", "::1")))
    assert not any(map(is_loopback_name, ("localhost.evil.example", "127.0.0.1.nip.io", "10.0.0.1", "r.example")))


PATIENCE = Patience(attempts=2, first_wait_seconds=0.01, connect_seconds=2)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Answers of the resolver; unknown names are unknown."""
    answers: dict[str, list[str]] = {}

    async def getaddrinfo(_: object, host: str, port: int, **__: Any) -> list[tuple[Any, ...]]:
        found = answers.get(host) or ([host] if host.replace(".", "").isdigit() or ":" in host else [])
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)
    return answers


@pytest.mark.parametrize("address", ["169.254.169.254", "127.0.0.1", "0.0.0.0", "::ffff:169.254.169.254", "::1"])
async def test_a_name_with_a_forbidden_address_is_refused(
    address: str, names: dict[str, list[str]], tmp_path: Path
) -> None:
    """Also when a good address stands beside it, which is what an attacker's name server would say."""
    names["evil.example"] = ["1.1.1.1", address]
    with pytest.raises(ImageRefused, match="address that images may not come from"):
        await DirectoryImageStore(tmp_path, patience=PATIENCE).resolve("evil.example/app")


@pytest.mark.parametrize("reference", ["169.254.169.254/latest", "169.254.169.254:80/latest/meta-data", "0.0.0.0:1/x"])
async def test_a_forbidden_address_is_refused(reference: str, tmp_path: Path) -> None:
    with pytest.raises(ImageRefused, match="is an address that images may not come from"):
        await DirectoryImageStore(tmp_path, patience=PATIENCE).resolve(reference)


async def test_a_private_network_is_the_operators_to_open(names: dict[str, list[str]], tmp_path: Path) -> None:
    """Whoever may name an image could else try every port of the operator's network, and read what it answers."""
    names["registry.corp"] = ["10.1.2.3"]
    for text in ("10.1.2.4", "10.1.2.3:5000"):  # its neighbour, another port of its own
        store = DirectoryImageStore(
            tmp_path / text, patience=PATIENCE, opened=(parse_allowed_network(text, field="x"),)
        )
        with pytest.raises(ImageRefused, match=r"--allow-network 10\.1\.2\.3:443"):
            await store.resolve("registry.corp/app")
    names["registry.corp"] = ["fd00::1"]
    with pytest.raises(ImageRefused, match="has not opened"):
        await DirectoryImageStore(tmp_path / "six", patience=PATIENCE, opened=()).resolve("registry.corp/app")
    opened = JudgingBackend(
        lambda _: Reach.PRIVATE, lambda *_: None, (parse_allowed_network("10.1.2.0/24", field="x"),)
    )
    names["registry.corp"] = ["10.1.2.3"]
    connected: list[str] = []

    async def connect(address: str, port: int, **_: Any) -> Any:
        connected.append(address)

    opened._backend.connect_tcp = connect  # type: ignore[method-assign,assignment]
    await opened.connect_tcp("registry.corp", 443)
    assert connected == ["10.1.2.3"]


async def test_an_unknown_name_is_an_outage_at_once(names: dict[str, list[str]], tmp_path: Path) -> None:
    with pytest.raises(RegistryUnavailable, match="not known"):
        await DirectoryImageStore(tmp_path, patience=PATIENCE).resolve("nobody.example/app")


async def test_the_operator_may_list_a_registry(names: dict[str, list[str]], tmp_path: Path) -> None:
    """A company's registry has a private name and no certificate; that is the operator's to decide."""
    async with ScriptedRegistry().serving() as registry:
        digest = registry.add(write_layout(tmp_path / "l", [gzip_layer(tar_of({"a": "b"}))]), "app:1")
        port = registry.address.rpartition(":")[2]
        names["registry.corp"] = ["127.0.0.1"]
        reference = f"registry.corp:{port}/app:1"
        with pytest.raises(ImageRefused):
            await DirectoryImageStore(tmp_path / "a", patience=PATIENCE).resolve(reference)
        for listed in ("registry.corp", f"registry.corp:{port}"):
            store = DirectoryImageStore(tmp_path / "b", insecure_registries=frozenset({listed}), patience=PATIENCE)
            assert (await store.resolve(reference)).digest == digest


@pytest.mark.parametrize("target", ["http://169.254.169.254/latest", "http://10.0.0.1/x", "http://other.example/x"])
async def test_a_redirect_leads_no_closer_to_home(target: str, names: dict[str, list[str]], tmp_path: Path) -> None:
    """Redirects are where checks of the first address end in most systems."""
    async with ScriptedRegistry().serving() as registry:
        registry.rules.append(lambda request: Answer(307, headers={"Location": target}))
        with pytest.raises(ImageRefused):
            await DirectoryImageStore(tmp_path, patience=PATIENCE).resolve(f"{registry.address}/app:1")
