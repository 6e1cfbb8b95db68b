"""JSON that other readers would read otherwise is refused, the rest is read as it is."""

from __future__ import annotations

import contextlib
import json

from hypothesis import given
from hypothesis import strategies as st

from shellwego.control.api.strict_json import parse
from shellwego.core.errors import InvalidField

text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**17), 10**17) | st.floats(-1e15, 1e15, allow_nan=False) | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=15,
)


@given(values)
def test_ordinary_json_is_read_as_it_is(value):
    with contextlib.suppress(InvalidField):  # deeper than any body of ours
        assert parse(json.dumps(value).encode()) == json.loads(json.dumps(value))


@given(st.binary())
def test_any_bytes_are_read_or_refused_never_a_crash(body):
    with contextlib.suppress(InvalidField):
        parse(body)


@given(st.text('[]{}",:0123456789.eE+-\\u n\0tfa', max_size=80))
def test_almost_json_is_read_or_refused_never_a_crash(body):
    with contextlib.suppress(InvalidField):
        parse(body.encode())
