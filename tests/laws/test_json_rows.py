"""Lines of JSON read the quick way say what those read key by key say, or are refused with the same words."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from taicang import reading

KEYS = st.sampled_from(["a", "a", "b", "a:b", "{"])
PLAIN = st.one_of(st.integers(-3, 3), st.sampled_from(["", ":", "a:", "{}", '"'] * 2), st.none(), st.floats(0, 1))
VALUES = st.recursive(
    PLAIN,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.lists(st.tuples(KEYS, inner), max_size=3).map(tuple)),
    max_leaves=5,
)
"""Objects are tuples of pairs, whose keys may stand twice."""


def _written(value: Any, gap: str) -> str:
    if isinstance(value, tuple):
        pairs = (f"{json.dumps(key)}{gap}:{gap}{_written(each, gap)}" for key, each in value)
        return "{" + gap + ",".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_written(each, gap) for each in value) + "]"
    return json.dumps(value)


def _outcome(read: Any, text: str) -> Any:
    try:
        return read(text)
    except reading.FAULTS as error:
        return str(error)


@given(st.lists(st.tuples(KEYS, VALUES), max_size=4).map(tuple), st.sampled_from(["", " "]), st.sampled_from(["", "}"]))
@example((("a", 1), ("a", 2)), "", "")
@example((("a", ":"), ("a", 2), ("b", 3)), " ", "")
@example((("a", (("b", 1), ("b", 2))),), "", "")
def test_the_quick_way_is_the_careful_one(pairs, gap, after):
    text = _written(pairs, gap) + after
    found = _outcome(reading.row, text)
    assert found == _outcome(reading.CAREFUL, text)
    if not after and isinstance(found, str):
        assert "stands twice" in found
