"""Patience is measured from the first question, and what is forgotten begins anew."""

from __future__ import annotations

from shellwego.kit.stopwatch import Stopwatch


def test_time_runs_from_the_first_question_for_each_thing_by_itself() -> None:
    now = [100.0]
    watch = Stopwatch(lambda: now[0])
    assert watch.seconds("a") == 0
    now[0] += 5
    assert (watch.seconds("a"), watch.seconds("b")) == (5, 0)
    watch.forget_all_but({"b"})
    now[0] += 1
    assert (watch.seconds("a"), watch.seconds("b")) == (0, 1)
