"""Cursors."""

from __future__ import annotations

import contextlib
import datetime as dt

from hypothesis import given
from hypothesis import strategies as st

from shellwego.control.api import paging
from shellwego.core.errors import InvalidField


@given(st.datetimes(timezones=st.just(dt.UTC)), st.from_regex(r"\A[a-z]{3}_[a-z2-7]{20}\Z"))
def test_a_cursor_comes_back_as_it_went(at, id):
    assert paging.time_key(paging.cursor_of(at, id)) == (at, id)
    assert paging.text_key(paging.cursor_of(id)) == id


@given(st.text(max_size=60))
def test_any_text_is_a_cursor_or_refused(text):
    for read in (paging.time_key, paging.text_key, paging.number_key):
        with contextlib.suppress(InvalidField):
            read(text)


def test_the_last_row_of_a_page_is_told_only_when_there_are_more():
    assert paging.cut([1, 2, 3], 2) == ([1, 2], 2)
    assert paging.cut([1, 2], 2) == ([1, 2], None)
    assert paging.cut([], 2) == ([], None)
