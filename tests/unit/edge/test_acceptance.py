"""Is one tenant's bad route kept away from everybody else's traffic?"""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shellwego.edge.acceptance import Acceptance, accept_all, accept_changes
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


NOTHING = Acceptance()


def served(*routes: Route) -> Acceptance:
    return accept_all(routes, (), NOTHING)


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
    seen = accept_all([bad, route("good")], (), NOTHING, reserved=["api.x.test"])
    assert list(seen.accepted) == ["app_good"]
    [problem] = seen.problems
    assert "bad" in problem


def test_a_refused_change_leaves_what_was_in_force() -> None:
    """An operator's slip in one app's route must not take that app down."""
    before = served(route("a"))
    for after in (
        accept_all([route("a", "not a host")], (), before),
        accept_changes([route("a", "not a host")], (), before),
    ):
        assert after.accepted == before.accepted
        assert after.problems


def test_a_host_name_stays_with_the_app_that_has_it() -> None:
    """Otherwise a second tenant could take over a name by asking for it."""
    before = served(route("a", "shop.x.test"))
    thief, owner = route("thief", "shop.x.test"), route("a", "shop.x.test", "new.x.test")
    seen = accept_all([thief, owner], (), before)
    assert list(seen.accepted) == ["app_a"]
    assert seen.accepted["app_a"].route.hosts == ("shop.x.test", "new.x.test")
    assert len(seen.problems) == 1


def test_a_host_name_that_was_given_up_can_be_taken() -> None:
    before = served(route("a", "shop.x.test"))
    seen = accept_all([route("b", "shop.x.test"), route("a", "other.x.test")], (), before)
    assert set(seen.accepted) == {"app_a", "app_b"}
    assert seen.problems == []


def test_an_app_that_asks_for_anothers_name_goes_on_with_those_it_has() -> None:
    """The refusal is of the change, not of the app."""
    before = served(route("a"), route("b"))
    seen = accept_changes([route("a", "a.x.test", "b.x.test")], (), before)
    assert seen.accepted == before.accepted
    assert len(seen.problems) == 1


def test_a_refused_route_is_taken_when_the_name_becomes_free() -> None:
    """Nobody sends it again: the server told of it once."""
    before = accept_changes([route("b", "a.x.test")], (), served(route("a")))
    assert set(before.accepted) == {"app_a"}
    after = accept_changes([], ["app_a"], before)
    assert set(after.accepted) == {"app_b"}
    assert after.problems == []


routes_of_few = st.lists(
    st.builds(
        route,
        st.sampled_from("abcd"),
        st.sampled_from(["1.x.test", "2.x.test", "3.x.test", "bad host"]),
        servers=st.sampled_from([(), (A,)]),
    ),
    max_size=3,
    unique_by=lambda each: each.app,
)


@given(routes_of_few, st.lists(st.tuples(routes_of_few, st.sets(st.sampled_from(["app_a", "app_b", "app_c"])))))
def test_names_have_one_holder_and_what_was_touched_is_told(
    first: list[Route], changes: list[tuple[list[Route], set[str]]]
) -> None:
    """What isn't told as touched is not planned, and so not served."""
    before = served(*first)
    for asked, gone in changes:
        after = accept_changes(asked, gone - {each.app for each in asked}, before)
        held = [host for entry in after.accepted.values() for host in entry.route.hosts]
        assert len(held) == len(set(held))
        assert after.holders == {host: app for app, entry in after.accepted.items() for host in entry.route.hosts}
        different = {
            app
            for app in before.accepted.keys() | after.accepted.keys()
            if before.accepted.get(app) is not after.accepted.get(app)
        }
        assert different <= after.touched
        assert not gone - {each.app for each in asked} & after.accepted.keys()
        before = after


def test_hosts_are_compared_as_names() -> None:
    seen = served(route("a", "Shop.X.test.", "shop.x.test"))
    assert seen.accepted["app_a"].route.hosts == ("shop.x.test",)


def test_a_server_that_serves_does_not_drain() -> None:
    both = msgspec.structs.replace(route("a"), draining=[A])
    assert served(both).accepted["app_a"].route.draining == ()


def test_an_unchanged_route_is_the_same_object() -> None:
    """What tells the reconciler cheaply that there is nothing to plan for this app."""
    before = served(route("a"))
    after = accept_all([route("a")], (), before)
    assert after.accepted["app_a"] is before.accepted["app_a"]
    assert after.touched == set()


@given(st.text(max_size=40), st.text(max_size=40), st.text(max_size=40), st.integers())
def test_nothing_accepted_can_be_read_as_a_command(host: str, instance: str, address: str, port: int) -> None:
    server = RouteServer(instance=instance, address=address, port=port)
    for entry in served(route("a", host, servers=(server,))).accepted.values():
        words = [*entry.route.hosts, *(target.server for target in entry.route.targets), entry.route.app]
        assert all(
            set(word) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:-") for word in words
        )
