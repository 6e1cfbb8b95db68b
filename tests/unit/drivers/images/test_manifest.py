"""A manifest is the first thing that a stranger's registry tells us; what we don't understand, we refuse by name."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shellwego.core.errors import ImageRefused
from shellwego.drivers.images import manifest as m
from shellwego.drivers.images.limits import ImageLimits

LIMITS = ImageLimits(layers=4, layer_bytes=1000, image_bytes=2000)
DIGEST = "sha256:" + "a" * 64


def descriptor(media_type: str, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": DIGEST, "size": 10} | more


LAYER = descriptor("application/vnd.oci.image.layer.v1.tar+gzip")
GOOD: dict[str, Any] = {"schemaVersion": 2, "config": descriptor(m.OCI_CONFIG), "layers": [LAYER]}


def parse(document: object, media_type: str = m.OCI_MANIFEST) -> m.Manifest | m.Index:
    return m.parse_manifest("x", json.dumps(document).encode(), media_type, LIMITS)


@pytest.mark.parametrize("media_type", [m.OCI_MANIFEST, m.DOCKER_MANIFEST, "", "application/json"])
def test_an_ordinary_manifest_is_read(media_type: str) -> None:
    found = parse(GOOD, media_type)
    assert isinstance(found, m.Manifest)
    assert found.size_bytes == 20


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ([], "no JSON object"),
        (GOOD | {"schemaVersion": 1}, "schema 1"),
        (GOOD | {"manifests": []}, "at once"),
        (GOOD | {"mediaType": m.OCI_INDEX}, "calls itself"),
        (GOOD | {"mediaType": 7}, "not a string"),
        (GOOD | {"artifactType": "application/vnd.helm"}, "no container image"),
        (GOOD | {"config": descriptor("application/vnd.cncf.helm.config.v1+json")}, "no container image"),
        (GOOD | {"config": None}, "no object"),
        (GOOD | {"layers": {}}, "no list"),
        (GOOD | {"layers": [LAYER] * 5}, "5 layers"),
        (GOOD | {"layers": [LAYER | {"size": 1001}]}, "1001 bytes"),
        (GOOD | {"layers": [LAYER | {"size": 900}, LAYER | {"size": 900, "digest": DIGEST[:-1] + "b"}] * 2}, "bytes"),
        (GOOD | {"layers": [LAYER, LAYER | {"size": 11}]}, "two different sizes"),
        (GOOD | {"layers": [LAYER | {"size": -1}]}, "a size that is none"),
        (GOOD | {"layers": [LAYER | {"size": True}]}, "a size that is none"),
        (GOOD | {"layers": [LAYER | {"size": "10"}]}, "a size that is none"),
        (GOOD | {"layers": [LAYER | {"digest": "sha512:" + "a" * 128}]}, "not sha256"),
        (GOOD | {"layers": [LAYER | {"digest": "sha256:../../../../etc/passwd"}]}, "not sha256"),
        (GOOD | {"layers": [LAYER | {"mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar"}]}, "type"),
        (GOOD | {"layers": [LAYER | {"mediaType": "application/vnd.oci.image.layer.v1.tar+encrypted"}]}, "type"),
        (GOOD | {"layers": [LAYER | {"mediaType": None}]}, "without a media type"),
    ],
)
def test_refuses_with_the_reason(document: object, why: str) -> None:
    """Somebody has to be able to mend the image, or to see that it is an attack."""
    with pytest.raises(ImageRefused, match=why):
        parse(document)


def test_refuses_an_unknown_type_and_too_much_of_it() -> None:
    with pytest.raises(ImageRefused, match="unknown media type"):
        parse(GOOD, "application/vnd.new+json")
    with pytest.raises(ImageRefused, match="the limit is"):
        m.parse_manifest("x", b" " * (LIMITS.manifest_bytes + 1), "", LIMITS)
    with pytest.raises(ImageRefused, match="not JSON"):
        m.parse_manifest("x", b"[" * 100_000, "", LIMITS)


def index(*platforms: tuple[str, str, str]) -> m.Index:
    return m.Index(
        tuple(
            m.Descriptor(m.OCI_MANIFEST, "sha256:" + f"{number}" * 64, 1, m.Platform(*platform))
            for number, platform in enumerate(platforms)
        )
    )


@pytest.mark.parametrize(
    ("wanted", "there", "chosen"),
    [
        (("linux", "amd64", ""), [("linux", "arm64", "v8"), ("linux", "amd64", "")], 1),
        (("linux", "amd64", ""), [("linux", "amd64", "v3"), ("linux", "amd64", "v1")], 1),
        (("linux", "amd64", ""), [("windows", "amd64", ""), ("linux", "amd64", "")], 1),
        (("linux", "arm64", "v8"), [("linux", "arm64", ""), ("linux", "arm", "v7")], 0),
        (("linux", "arm", "v7"), [("linux", "arm", "v5"), ("linux", "arm", "v6")], 1),
        (("linux", "amd64", ""), [("unknown", "unknown", ""), ("linux", "amd64", "")], 1),
        (("linux", "amd64", ""), [("linux", "amd64", "v4")], None),
        (("linux", "riscv64", ""), [("linux", "amd64", "")], None),
        (("linux", "amd64", ""), [], None),
    ],
)
def test_chooses_what_this_node_can_run(
    wanted: tuple[str, str, str], there: list[tuple[str, str, str]], chosen: int | None
) -> None:
    """The wrong variant would start and die with an illegal instruction."""
    if chosen is None:
        with pytest.raises(ImageRefused, match="no variant"):
            m.choose_platform("x", index(*there), m.Platform(*wanted))
    else:
        assert m.choose_platform("x", index(*there), m.Platform(*wanted)).digest == "sha256:" + f"{chosen}" * 64


def config(settings: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    rootfs = {"type": "layers", "diff_ids": [DIGEST]}
    return {"os": "linux", "architecture": "amd64", "rootfs": rootfs, "config": settings} | more


def parse_config(document: object) -> m.Config:
    found = parse(GOOD)
    assert isinstance(found, m.Manifest)
    return m.parse_config("x", json.dumps(document).encode(), found, m.Platform("linux", "amd64"), LIMITS)


def test_a_config_says_how_to_run() -> None:
    image = parse_config(
        config(
            {
                "Entrypoint": ["/run"],
                "Cmd": None,
                "Env": ["A=1=2", "broken", "=x", "EMPTY="],
                "ExposedPorts": {"8080/tcp": {}, "53/udp": {}, "9": {}, "70000/tcp": {}, "x": {}},
                "WorkingDir": "/srv",
                "User": "app",
                "Labels": {"a": "b", "c": 1},
                "StopSignal": "SIGINT",
            }
        )
    ).image
    assert (image.entrypoint, image.cmd, image.working_dir, image.user) == (("/run",), (), "/srv", "app")
    assert image.env == {"A": "1=2", "EMPTY": ""}
    assert image.exposed_ports == (8080, 9)
    assert (image.labels, image.stop_signal) == ({"a": "b"}, "SIGINT")
    assert parse_config(config(None)).image.working_dir == "/"


@pytest.mark.parametrize(
    ("document", "why"),
    [
        (config(architecture="arm64"), "made for linux/arm64"),
        (config(os="windows"), "made for windows"),
        (config(rootfs={"diff_ids": []}), "0 layers"),
        (config(rootfs=None), "diff_ids"),
        (config({"Env": "A=1"}), "'Env'"),
        (config({"Cmd": [1]}), "'Cmd'"),
        (config({"Cmd": ["a\0b"]}), "'Cmd'"),
        (config({"User": 0}), "'User'"),
        (config({"ExposedPorts": [80]}), "ExposedPorts"),
        (config([]), "'config'"),  # type: ignore[arg-type]
    ],
)
def test_a_config_that_fits_nothing_is_refused(document: object, why: str) -> None:
    with pytest.raises(ImageRefused, match=why):
        parse_config(document)


def test_chain_id_is_the_specification_s() -> None:
    """Two images with the same layers share a directory; two with different ones never do."""
    a, b = "sha256:" + "a" * 64, "sha256:" + "b" * 64
    assert m.chain_id([a]) == "a" * 64
    assert m.chain_id([a, b]) == m.digest_of(f"{a} {b}".encode()).removeprefix("sha256:")
    assert m.chain_id([a, b]) != m.chain_id([b, a])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from([DIGEST, m.OCI_CONFIG]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from(["schemaVersion", "config", "layers", "mediaType", "manifests"]), json_values),
    st.dictionaries(st.sampled_from(["os", "architecture", "rootfs", "config"]), json_values),
)
def test_any_document_is_read_or_refused(manifest: dict[str, Any], settings: dict[str, Any]) -> None:
    """A crash in the parser would be an outage that any tenant can bring about."""
    for attempt in (lambda: parse({"schemaVersion": 2} | manifest, ""), lambda: parse_config(config() | settings)):
        with contextlib.suppress(ImageRefused):
            attempt()
