"""Counting many steps at once against going one by one: pages of an attention group, ticks of decode steps."""

from __future__ import annotations

from itertools import count
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from taicang.serve.cache import Cache
from taicang.serve.group import Group
from taicang.serve.request import FOREVER
from taicang.serve.steptable import Row

START = 5
"""Decode steps before the first sequence joins: a step is not its number within a page."""


class Sequence(SimpleNamespace):
    __hash__ = object.__hash__


@st.composite
def groups(draw):
    """A group with sequences that joined at steps of their own, and the step it stands at."""
    page = draw(st.sampled_from([1, 2, 16, 128]))
    cache = Cache(draw(st.integers(0, 400)), page)
    group = Group(cache, step=START)
    joined = draw(st.lists(st.tuples(st.integers(1, 300), st.integers(0, START)), max_size=40))
    for need, step in joined:
        group.join(Sequence(need=need, base=need), step)
    return group, [need - step for need, step in joined]


def takes(offsets, page, step):
    """Pages that the decode step ``step`` takes: one for each length that is a whole number of pages."""
    return sum((offset + step) % page == 0 for offset in offsets)


@given(groups(), st.integers(0, 400))
def test_pages_of_a_stretch_are_those_of_its_steps(drawn, steps):
    group, offsets = drawn
    page, cache = group.cache.page, group.cache
    want = sum(takes(offsets, page, step) for step in range(START, START + steps))
    if want <= cache.spare:
        before = cache.free
        group.sync(START + steps)
        assert before - cache.free == want
        group.sync(START + steps)
        assert before - cache.free == want


@given(groups())
def test_until_which_step_pages_suffice(drawn):
    group, offsets = drawn
    page, spare = group.cache.page, group.cache.spare
    assert group.short(START) == (takes(offsets, page, START) > spare)
    sure = group.watch()
    group.look(START)
    if not offsets:
        assert sure == group.limit == FOREVER
        return
    left = spare
    for step in count(START):
        left -= takes(offsets, page, step)
        if left < 0:
            break
    assert group.limit == max(step, START + 1)
    assert sure <= step < sure + page


@st.composite
def rows(draw):
    """Straight pieces that meet at the knots, as times that grow with context."""
    knots, ticks, slopes = [0], [draw(st.integers(1, 100_000))], []
    for width, slope in draw(st.lists(st.tuples(st.integers(1, 5_000), st.integers(0, 40)), min_size=1, max_size=5)):
        slopes.append(slope)
        knots.append(knots[-1] + width)
        ticks.append(ticks[-1] + slope * width)
    return Row(knots=knots, ticks=ticks, slopes=[*slopes, slopes[-1]])


@given(rows(), st.integers(0, 30_000), st.integers(0, 200), st.integers(0, 200))
def test_ticks_of_steps_in_a_row_are_those_of_each(row, context, growth, steps):
    each = [row.at(context + i * growth) for i in range(steps)]
    assert row.sum(context, growth, steps) == sum(each)


@given(rows(), st.integers(0, 30_000), st.integers(0, 200), st.integers(1, 3_000_000))
def test_steps_that_take_so_long(row, context, growth, ticks):
    steps = row.reach(context, growth, ticks)
    assert row.sum(context, growth, steps) >= ticks
    assert steps == 1 or row.sum(context, growth, steps - 1) < ticks
