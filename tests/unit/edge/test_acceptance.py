"""Is one tenant's bad route kept away from everybody else's traffic?"""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shellwego.edge.acceptance import accept_routes
from shellwego.protocol.messages import Route, RouteServer

A = RouteServer(instance="ins_a", address="10.0.0.1", port=8080)


def route(name: str, *hosts: str, servers: tuple[RouteServer, ...] = (A,)) -> Route:
    return Route(
        app=f"app_{name}",
        app_name=name,
        organisation="org",
        hosts=list(hosts) or [f"{name}.x.test"],
        servers=list(servers),
    )


@pytest.mark.parametrize(
    "bad",
    [
        route("bad", "a b"),
        route("bad", "a\nb.x.test"),
        route("bad", ""),
        route("bad", "-a.x.test"),
        route("bad", "a" * 64 + ".test"),
        route("bad", ".".join(["a" * 60] * 5)),
        route("bad", "*.x.test"),
        route("bad", "api.x.test"),
        route("bad", *(f"h{number}.x.test" for number in range(101))),
        msgspec.structs.replace(route("bad"), app="bad app"),
        route("bad", servers=(RouteServer(instance="ins a", address="10.0.0.1", port=1),)),
        route("bad", servers=(RouteServer(instance="ins_a;x", address="10.0.0.1", port=1),)),
        route("bad", servers=(RouteServer(instance="ins_a", address="10.0.0.1 disabled", port=1),)),
        route("bad", servers=(RouteServer(instance="ins_a", address="unix@/x", port=1),)),
        route("bad", servers=(RouteServer(instance="ins_a", address="0.0.0.0", port=1),)),
        route("bad", servers=(RouteServer(instance="ins_a", address="fe80::1%eth0", port=1),)),
        route("bad", servers=(RouteServer(instance="ins_a", address="10.0.0.1", port=0),)),
        route("bad", servers=(RouteServer(instance="ins_a", address="10.0.0.1", port=65536),)),
        msgspec.structs.replace(route("bad"), grace_seconds=float("nan")),
        msgspec.structs.replace(route("bad"), grace_seconds=-1.0),
    ],
)
def test_a_bad_route_is_refused_alone(bad: Route) -> None:
    accepted, problems = accept_routes([bad, route("good")], {}, reserved=["api.x.test"])
    assert list(accepted) == ["app_good"]
    assert len(problems) == 1
    assert "bad" in problems[0]


def test_a_refused_change_leaves_what_was_in_force() -> None:
    """An operator's slip in one app's route must not take that app down."""
    before, _ = accept_routes([route("a")], {})
    after, problems = accept_routes([route("a", "not a host")], before)
    assert after == before
    assert problems


def test_a_host_name_stays_with_the_app_that_has_it() -> None:
    """Otherwise a second tenant could take over a name by asking for it."""
    before, _ = accept_routes([route("a", "shop.x.test")], {})
    thief, owner = route("thief", "shop.x.test"), route("a", "shop.x.test", "new.x.test")
    accepted, problems = accept_routes([thief, owner], before)
    assert list(accepted) == ["app_a"]
    assert accepted["app_a"].route.hosts == ("shop.x.test", "new.x.test")
    assert len(problems) == 1


def test_a_host_name_that_was_given_up_can_be_taken() -> None:
    before, _ = accept_routes([route("a", "shop.x.test")], {})
    accepted, problems = accept_routes([route("b", "shop.x.test"), route("a", "other.x.test")], before)
    assert set(accepted) == {"app_a", "app_b"}
    assert problems == []


def test_hosts_are_compared_as_names() -> None:
    accepted, _ = accept_routes([route("a", "Shop.X.test.", "shop.x.test")], {})
    assert accepted["app_a"].route.hosts == ("shop.x.test",)


def test_a_server_that_serves_does_not_drain() -> None:
    both = msgspec.structs.replace(route("a"), draining=[A])
    accepted, _ = accept_routes([both], {})
    assert accepted["app_a"].route.draining == ()


def test_an_unchanged_route_is_the_same_object() -> None:
    """What tells the reconciler cheaply that there is nothing to plan for this app."""
    before, _ = accept_routes([route("a")], {})
    after, _ = accept_routes([route("a")], before)
    assert after["app_a"] is before["app_a"]


@given(st.text(max_size=40), st.text(max_size=40), st.text(max_size=40), st.integers())
def test_nothing_accepted_can_be_read_as_a_command(host: str, instance: str, address: str, port: int) -> None:
    server = RouteServer(instance=instance, address=address, port=port)
    accepted, _ = accept_routes([route("a", host, servers=(server,))], {})
    for entry in accepted.values():
        words = [*entry.route.hosts, *(target.server for target in entry.route.targets), entry.route.app]
        assert all(
            set(word) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:-") for word in words
        )
