"""A report that says again what is written down costs nothing; one that might not be is looked at whole."""

from __future__ import annotations

import msgspec
import pytest

from shellwego.control.links.reports import MOST_NEWS, WHOLE_SECONDS, Told
from shellwego.protocol.messages import InstanceReport, Report

WELL = InstanceReport(id="ins_a", state="healthy")
CRASHED = InstanceReport(id="ins_a", state="backoff", restarts=1)
OTHER = InstanceReport(id="ins_b", state="healthy")
FIRST = Report(generation=3, instances=[WELL, OTHER])


@pytest.fixture
def told() -> Told:
    told = Told()
    told.is_written(FIRST, 100.0, whole=True)
    return told


def test_the_first_of_a_connection_is_looked_at_whole() -> None:
    """What we know may be from before the server started, or from another database."""
    assert Told().news(FIRST, 100.0) is None


def test_only_what_changed_is_news(told: Told) -> None:
    assert told.news(FIRST, 101.0) == []
    assert told.news(Report(generation=3, instances=[CRASHED, OTHER]), 101.0) == [CRASHED]
    assert told.news(Report(generation=3, instances=[OTHER]), 101.0) == []


def test_what_was_not_committed_is_news_again(told: Told) -> None:
    crashed = Report(generation=3, instances=[CRASHED, OTHER])
    assert told.news(crashed, 101.0) == [CRASHED]
    assert told.news(crashed, 101.5) == [CRASHED]
    told.is_written(crashed, 101.5, whole=False)
    assert told.news(crashed, 102.0) == []


@pytest.mark.parametrize("changed", [{"generation": 4}, {"unclaimed": ["ins_c"]}])
def test_another_assignment_or_strays_are_looked_at_whole(told: Told, changed: dict[str, object]) -> None:
    assert told.news(msgspec.structs.replace(FIRST, **changed), 101.0) is None


def test_every_few_seconds_all_are_looked_at(told: Told) -> None:
    """A whole look counts from the last whole one, however many parts came between."""
    for at in (101.0, 103.0, 104.9):
        assert told.news(FIRST, at) == []
        told.is_written(FIRST, at, whole=False)
    assert told.news(FIRST, 100.0 + WHOLE_SECONDS) is None


def test_when_much_changed_all_are_looked_at() -> None:
    told = Told()
    many = [InstanceReport(id=f"ins_{number}", state="healthy") for number in range(2 * MOST_NEWS)]
    told.is_written(Report(generation=3, instances=many), 100.0, whole=True)
    ended = [msgspec.structs.replace(seen, state="backoff") for seen in many]
    assert told.news(Report(generation=3, instances=ended[:MOST_NEWS] + many[MOST_NEWS:]), 101.0) == ended[:MOST_NEWS]
    assert told.news(Report(generation=3, instances=ended[: MOST_NEWS + 1] + many[MOST_NEWS + 1 :]), 101.0) is None
