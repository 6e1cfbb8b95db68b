"""A reference must mean to us what it means to Docker, or people deploy something else than they typed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shellwego.core.errors import ImageRefused
from shellwego.drivers.images.reference import parse_reference

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("redis", "docker.io/library/redis:latest"),
        ("redis:7", "docker.io/library/redis:7"),
        ("docker.io/redis", "docker.io/library/redis:latest"),
        ("index.docker.io/redis", "docker.io/library/redis:latest"),
        ("grafana/grafana", "docker.io/grafana/grafana:latest"),
        ("a/b/c", "docker.io/a/b/c:latest"),
        ("ghcr.io/me/app:v1", "ghcr.io/me/app:v1"),
        ("localhost/app", "localhost/app:latest"),
        ("localhost:5000/app:1", "localhost:5000/app:1"),
        ("127.0.0.1:5000/a/b:1", "127.0.0.1:5000/a/b:1"),
        ("[::1]:5000/app", "[::1]:5000/app:latest"),
        ("Localhost/app", "localhost/app:latest"),
        ("Registry.Example/app", "registry.example/app:latest"),
        ("app:5000", "docker.io/library/app:5000"),
        (f"app@sha256:{HEX}", f"docker.io/library/app@sha256:{HEX}"),
        (f"r.example/app:tag@sha256:{HEX}", f"r.example/app@sha256:{HEX}"),
        (f"sha256:{HEX}", f"sha256:{HEX}"),
    ],
)
def test_means_what_docker_means(text: str, means: str) -> None:
    assert str(parse_reference(text)) == means


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/app",
        "app/",
        "a//b",
        "App",
        "A/app",
        "app:",
        "app@",
        "app:ta g",
        "-app",
        "app\n",
        "../../etc",
        "r.example:99999/app",
        "r.example:0/app",
        "-r.example/app",
        "r.example/app?x=1",
        "r.example/app#x",
        "user:pass@r.example/app",
        "http://r.example/app",
        f"app@sha256:{HEX.upper()}",
        f"app@sha512:{HEX}",
        f"app@sha256:{HEX[:-1]}",
        "a" * 600,
        f"r.example/{'a' * 300}",
        "r.example/app:" + "t" * 129,
    ],
)
def test_refuses_what_could_mean_something_else(text: str) -> None:
    """A reference becomes part of URLs; nothing in it may change which."""
    with pytest.raises(ImageRefused):
        parse_reference(text)


@settings(deadline=None)
@given(st.text(alphabet="ab.:/@-_A0[]" + HEX, max_size=40) | st.text(max_size=20))
def test_a_normal_form_is_its_own(text: str) -> None:
    """Names are stored under it; two spellings of one image must meet."""
    try:
        reference = parse_reference(text)
    except ImageRefused:
        return
    assert parse_reference(str(reference)) == reference
