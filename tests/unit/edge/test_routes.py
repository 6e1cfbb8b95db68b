"""Does every plan keep requests alive on the way to what should be served, from whatever there is?"""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shellwego.edge.routes import (
    LINGER_SECONDS,
    PAGES,
    AppRoute,
    Mode,
    Observed,
    RoutePlan,
    SeenServer,
    Target,
    apply_to,
    find_drained,
    narrow,
    plan_routes,
)

A, B, C = (Target(name, f"10.0.0.{number}", 8080) for number, name in enumerate(("ins_a", "ins_b", "ins_c"), start=1))
FIXED = {"api.x.test": "api"}


def app(name: str, *targets: Target, draining: tuple[Target, ...] = (), page: str = "page-starting") -> AppRoute:
    return AppRoute(name, (f"{name}.x.test",), targets, draining, page)


def plan(observed: Observed, *routes: AppRoute) -> RoutePlan:
    return plan_routes({route.app: route for route in routes}, {}, observed)


def seen(*servers: tuple[Target, Mode], sessions: int | None = None, seconds: int = 0) -> tuple[SeenServer, ...]:
    return tuple(SeenServer(target.server, mode, sessions, seconds) for target, mode in servers)


EMPTY = Observed(slots=4)
SERVING_A = Observed(
    slots=4, hosts={"one.x.test": "slot1"}, owners={"slot1": "one"}, servers={"slot1": seen((A, Mode.READY))}
)


@pytest.mark.parametrize(
    ("observed", "routes", "expected"),
    [
        pytest.param(
            EMPTY,
            [app("one", A)],
            RoutePlan(claims=(("slot1", "one"),), adds=(("slot1", A),), maps=(("one.x.test", "slot1", False),)),
            id="a first app claims the first slot",
        ),
        pytest.param(
            EMPTY,
            [app("one", page=PAGES["crashed"])],
            RoutePlan(maps=(("one.x.test", "page-crashed", False),)),
            id="an app without servers needs no slot, only a page",
        ),
        pytest.param(SERVING_A, [app("one", A)], RoutePlan(), id="nothing to do"),
        pytest.param(
            SERVING_A,
            [app("one", B, draining=(A,))],
            RoutePlan(adds=(("slot1", B),), drains=(("slot1", A.server),)),
            id="the newcomer is added before the old one drains, and the map stays",
        ),
        pytest.param(
            SERVING_A,
            [app("one", Target("ins_a", "10.0.0.9", 8080))],
            RoutePlan(
                adds=(("slot1", Target("ins_a", "10.0.0.9", 8080)),),
                retires=(("slot1", A.server),),
                deletes=(("slot1", A.server),),
            ),
            id="an instance with another address is another server",
        ),
        pytest.param(
            SERVING_A,
            [app("one", draining=(A,), page=PAGES["stopped"])],
            RoutePlan(maps=(("one.x.test", "page-stopped", True),), drains=(("slot1", A.server),)),
            id="a stopped app's visitors read why while its last requests end; the slot stays its own",
        ),
        pytest.param(
            SERVING_A,
            [],
            RoutePlan(
                unmaps=("one.x.test",),
                retires=(("slot1", A.server),),
                deletes=(("slot1", A.server),),
                releases=("slot1",),
            ),
            id="a deleted app leaves nothing",
        ),
        pytest.param(
            Observed(
                slots=4,
                hosts={"one.x.test": "slot1"},
                owners={"slot1": "one"},
                servers={"slot1": seen((A, Mode.DRAIN))},
            ),
            [app("one", A)],
            RoutePlan(readies=(("slot1", A.server),)),
            id="a server that shall serve again does",
        ),
        pytest.param(
            Observed(slots=4, owners={"slot1": "one", "slot2": "one"}, servers={"slot2": seen((B, Mode.READY))}),
            [app("one", A)],
            RoutePlan(
                adds=(("slot1", A),),
                maps=(("one.x.test", "slot1", False),),
                retires=(("slot2", B.server),),
                deletes=(("slot2", B.server),),
                releases=("slot2",),
            ),
            id="two slots of one app become one",
        ),
        pytest.param(
            Observed(
                slots=4,
                owners={"slot1": "one"},
                servers={"slot1": seen((A, Mode.MAINT), sessions=1, seconds=LINGER_SECONDS)},
            ),
            [],
            RoutePlan(shutdowns=(("slot1", A.server),), deletes=(("slot1", A.server),), releases=("slot1",)),
            id="a connection to nowhere is ended after a while",
        ),
    ],
)
def test_next_steps(observed: Observed, routes: list[AppRoute], expected: RoutePlan) -> None:
    answer = plan(observed, *routes)
    assert answer == RoutePlan(**{**{f: getattr(expected, f) for f in expected.__slots__}, "slots_needed": 4})


def test_without_room_nothing_is_done_by_halves() -> None:
    """The caller starts HAProxy with more slots first; a half-applied plan would map hosts to nothing."""
    answer = plan(Observed(slots=1), app("one", A), app("two", B))
    assert answer == RoutePlan(slots_needed=2)


targets = st.sampled_from([A, B, C, Target("ins_a", "10.0.0.9", 8080)])
names = st.sampled_from(["one", "two", "three"])
pages = st.sampled_from(sorted(PAGES.values()))


@st.composite
def any_routes(draw: st.DrawFn) -> dict[str, AppRoute]:
    routes = {}
    for name in draw(st.sets(names)):
        serving = draw(st.sets(targets))
        draining = draw(st.sets(targets)).difference(serving)
        routes[name] = AppRoute(name, (f"{name}.x.test",), tuple(sorted(serving)), tuple(sorted(draining)), draw(pages))
    return routes


@st.composite
def any_observed(draw: st.DrawFn) -> Observed:
    slots = [f"slot{number}" for number in range(1, 9)]
    backends = st.sampled_from([*slots, "page-unknown", "page-crashed", "api", ""])
    hosts = draw(st.dictionaries(st.sampled_from(["one.x.test", "two.x.test", "old.x.test"]), backends))
    owners = draw(st.dictionaries(st.sampled_from(slots[:4]), st.sampled_from(["one", "two", "dead"])))
    servers = {
        slot: tuple(
            SeenServer(target.server, draw(st.sampled_from(list(Mode))), draw(st.sampled_from([0, 1])), 0)
            for target in there
        )
        for slot, there in draw(st.dictionaries(st.sampled_from(slots[:4]), st.sets(targets, min_size=1))).items()
    }
    return Observed(slots=8, hosts=hosts, owners=owners, servers=servers)


def serves(observed: Observed, host: str) -> set[str]:
    there = observed.servers.get(observed.hosts.get(host, ""), ())
    return {server.name for server in there if server.mode is Mode.READY}


@given(any_routes(), any_observed())
def test_one_plan_is_enough_and_then_nothing_is_left_to_do(routes: dict[str, AppRoute], observed: Observed) -> None:
    after = apply_to(observed, plan_routes(routes, FIXED, observed))
    assert plan_routes(routes, FIXED, after).is_noop
    for name, route in routes.items():
        assert serves(after, f"{name}.x.test") == {target.server for target in route.targets}
    assert after.hosts["api.x.test"] == "api"
    assert set(after.hosts) == {"api.x.test", *(host for route in routes.values() for host in route.hosts)}


@given(any_routes(), any_routes())
def test_no_moment_of_a_change_leaves_a_served_app_without_a_server(
    before: dict[str, AppRoute], after: dict[str, AppRoute]
) -> None:
    """Whichever step the edge is killed after: who was served and shall be served is served."""
    observed = apply_to(Observed(slots=8), plan_routes(before, FIXED, Observed(slots=8)))
    whole = plan_routes(after, FIXED, observed)
    kept = {name for name in before if name in after and before[name].targets and after[name].targets}
    for moment in prefixes(whole):
        now = apply_to(observed, moment)
        for name in kept:
            assert serves(now, f"{name}.x.test")


@given(any_routes(), any_routes(), any_observed())
def test_planning_only_what_changed_is_planning_all(
    before: dict[str, AppRoute], after: dict[str, AppRoute], start: Observed
) -> None:
    """The short way, which makes a change among thousands cheap, must not lead elsewhere."""
    observed = apply_to(start, plan_routes(before, FIXED, start))
    changed = {name for name in {*before, *after} if before.get(name) != after.get(name)}
    hosts = {host for name in changed for routes in (before, after) if name in routes for host in routes[name].hosts}
    some = {name: route for name, route in after.items() if name in changed}
    narrowed = plan_routes(some, {}, narrow(observed, changed, hosts))
    assert plan_routes(after, FIXED, apply_to(observed, narrowed)).is_noop


@given(any_routes(), any_observed())
def test_a_server_that_can_not_be_deleted_yet_keeps_its_slot(routes: dict[str, AppRoute], observed: Observed) -> None:
    whole = plan_routes(routes, FIXED, observed)
    after = apply_to(observed, whole, refused=whole.deletes)
    for slot, name in whole.deletes:
        assert name in {server.name for server in after.servers[slot]}
        assert slot in after.owners or slot not in whole.releases or slot not in observed.owners
    assert not set(after.free_slots()) & set(after.servers)


def test_drained_is_only_what_was_seen_to_be_quiet() -> None:
    route = app("one", B, draining=(A,))

    def drained(*servers: SeenServer, older: bool = False) -> frozenset[str]:
        observed = Observed(slots=4, owners={"slot1": "one"}, servers={"slot1": servers})
        return find_drained([route], observed, older_proxies=older)

    quiet = SeenServer(A.server, Mode.DRAIN, sessions=0)
    assert drained(quiet) == {"ins_a"}
    assert drained() == {"ins_a"}, "a HAProxy that was started anew has no request of it"
    assert drained(SeenServer(A.server, Mode.DRAIN, sessions=None)) == set(), "nobody looked yet"
    assert drained(SeenServer(A.server, Mode.READY, sessions=0)) == set(), "it may get a request any moment"
    assert drained(SeenServer(A.server, Mode.DRAIN, sessions=2, seconds=9)) == set()
    assert drained(SeenServer(A.server, Mode.DRAIN, sessions=2, seconds=10)) == {"ins_a"}, "its grace is over"
    assert drained(quiet, older=True) == set(), "a replaced HAProxy may still have a request on it"


def prefixes(whole: RoutePlan) -> list[RoutePlan]:
    """The plan cut off after each of its steps, in the order in which they are taken."""
    order = ["claims", "adds", "readies", "maps", "unmaps", "drains", "retires", "shutdowns", "deletes", "releases"]
    done: Mapping[str, tuple[object, ...]] = {}
    cuts = []
    for kind in order:
        steps = getattr(whole, kind)
        cuts += [RoutePlan(**done, **{kind: steps[:count]}) for count in range(len(steps) + 1)]  # type: ignore[arg-type]
        done = {**done, kind: steps}
    return cuts
