"""Does HAProxy's configuration say what a restart must not forget?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from shellwego.edge.config import (
    ProxyPaths,
    ProxySettings,
    maximum_connections,
    render_config,
    render_maps,
    render_pages,
    shape_of,
)
from shellwego.edge.haproxy import check_config, start_proxy, without_descriptors
from shellwego.edge.pages import ERROR_PAGES, ROUTE_PAGES, render_page
from shellwego.edge.routes import PAGES, AppRoute, Target

PATHS = ProxyPaths(Path("/run/x/edge"))
SETTINGS = ProxySettings(
    paths=PATHS,
    listening="0.0.0.0 80 443",
    http_descriptor=7,
    https_descriptor=8,
    api_socket=Path("/run/x/api.sock"),
    descriptor_limit=20_000,
    user="haproxy",
    group="haproxy",
)
ROUTES = {
    "app_b": AppRoute(
        "app_b", ("b.x.test", "www.b.test"), (Target("ins_1", "10.0.0.1", 80), Target("ins_2", "fd00::2", 80))
    ),
    "app_a": AppRoute("app_a", ("a.x.test",), page=PAGES["crashed"]),
}


def test_a_start_carries_servers_and_maps() -> None:
    """A restart forgets what was added at run time, so the file of that moment must hold it."""
    config = render_config(SETTINGS, ROUTES, slots=2)
    slot = config[config.index("backend slot1\n") :]
    assert "server ins_1:10.0.0.1:80 10.0.0.1:80 " in slot
    assert "server ins_2:fd00::2:80 [fd00::2]:80 " in slot
    assert "backend slot2\n" in config
    assert render_maps(PATHS, ROUTES, {"api.x.test": "api"}) == {
        PATHS.hosts_map: "api.x.test api\nb.x.test slot1\nwww.b.test slot1\na.x.test page-crashed\n",
        PATHS.owners_map: "slot1 app_b\n",
    }


def test_the_shape_tells_what_needs_another_haproxy() -> None:
    """Descriptor numbers differ after each restart of the edge; that alone must not replace HAProxy."""
    assert shape_of(SETTINGS) == shape_of(replace(SETTINGS, http_descriptor=11, https_descriptor=12))
    for other in (
        replace(SETTINGS, listening="0.0.0.0 81 443"),
        replace(SETTINGS, https_descriptor=None),
        replace(SETTINGS, trusted_proxies=("10.0.0.0/8",)),
        replace(SETTINGS, descriptor_limit=1024),
    ):
        assert shape_of(other) != shape_of(SETTINGS)


def test_a_port_that_is_off_has_no_bind() -> None:
    config = render_config(replace(SETTINGS, https_descriptor=None), {}, slots=1)
    assert config.count("    bind ") == 1
    assert "ssl crt" not in config


def test_every_status_of_a_route_has_its_page() -> None:
    assert set(PAGES.values()) | {"page-unknown"} == set(ROUTE_PAGES)
    files = render_pages(PATHS)
    config = render_config(SETTINGS, {}, slots=1)
    for path in files:
        assert str(path) in config


@pytest.mark.parametrize("page", [*ROUTE_PAGES.values(), *ERROR_PAGES.values()])
def test_pages_load_nothing_and_fit_where_they_stand(page) -> None:  # type: ignore[no-untyped-def]
    """A page that fetched a font from elsewhere would tell a stranger who visits whom."""
    for kind in ("html", "json", "text"):
        body = render_page(page, kind)
        assert "\n" not in body
        assert "://" not in body
        assert "src=" not in body
        assert len(body) < 4096
    assert not set(render_page(page, "text")) & set("'\",\\%") or page in ROUTE_PAGES.values()


def test_connections_fit_the_limit_of_descriptors() -> None:
    """Asked for more than the limit allows, HAProxy does not start."""
    assert maximum_connections(20_000) * 2 < 20_000
    assert maximum_connections(1_000_000) == 50_000
    assert maximum_connections(256) == 100


def test_commands() -> None:
    config = Path("/run/x/edge/haproxy.cfg")
    assert check_config(Path("/usr/sbin/haproxy"), config) == ("/usr/sbin/haproxy", "-c", "-f", str(config))
    assert start_proxy(Path("haproxy"), config, namespace=Path("/run/netns/n"), replacing=[4, 5]) == (
        *("nsenter", "--net=/run/netns/n", "--", "haproxy", "-db", "-f", str(config), "-sf", "4", "5"),
    )
    assert start_proxy(Path("haproxy"), config, namespace=None, replacing=[]) == ("haproxy", "-db", "-f", str(config))
    assert "fd@" not in without_descriptors(render_config(SETTINGS, {}, slots=1))
