"""A cloud in which much happens must not look at all of itself each time."""

from __future__ import annotations

import datetime as dt
from types import ModuleType

import pytest

from shellwego.control.controllers import assignments, builds, deployments, routes
from shellwego.control.controllers.concerns import concerning
from shellwego.control.store.records import EventRecord

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def event(kind: str) -> EventRecord:
    return EventRecord("evt_x", kind, "subject", NOW)


@pytest.mark.parametrize("controller", [assignments, builds, deployments, routes])
def test_who_signs_in_wakes_no_controller(controller: ModuleType) -> None:
    assert concerning([event("session.started"), event("token.created")], controller._CONCERN) == []


def test_a_kind_is_meant_alone_and_a_beginning_means_all() -> None:
    seen = [event("app.created"), event("application.created"), event("node.fit"), event("node.unclaimed")]
    assert [each.kind for each in concerning(seen, ("app.", "node.unclaimed"))] == ["app.created", "node.unclaimed"]
