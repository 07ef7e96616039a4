"""Laws of collectives asked on links, over every built-in machine and plane, any part of its ranks and any size."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from taicang import catalog
from taicang.errors import MissingFigure, TaicangError
from taicang.predict.fabric import run
from taicang.search.collective import Ask
from taicang.search.explain import RESOURCES

MOST = 128
"""Ranks that take part."""
MOVED = {"all-reduce": 1.0, "all-gather": 1.0, "reduce-scatter": 1.0, "all-to-all": 1.0}
"""Of its buffer, less its own part, what a rank sends or gets at least: switches may do the rest."""


@cache
def machine(name):
    try:
        return catalog.machine(name)
    except MissingFigure:
        return None


@st.composite
def asks(draw, kinds=(*MOVED, "send", "dispatch", "combine")):
    on = machine(draw(st.sampled_from(catalog.names("machine"))) + draw(st.sampled_from(["", " x 2", " x 5"])))
    assume(on is not None and on.ranks > 1)
    stride = draw(st.sampled_from([1, 1, 2, 8]))
    ranks = draw(st.integers(2, max(min(on.ranks // stride, MOST), 2)))
    size = 10.0 ** draw(st.floats(0.0, 10.0))
    kind = draw(st.sampled_from(kinds))
    plane = draw(st.sampled_from(sorted(on.planes)))
    more = {"tokens": draw(st.integers(1, 64)), "topk": draw(st.integers(1, 8)), "experts": 64}
    return on, Ask(kind=kind, payload_bytes=size, ranks=ranks, stride=stride, plane=plane, **more)


def answered(on, ask):
    try:
        return run(on, ask)
    except TaicangError:  # too many ranks, a plane that does not join them, an exchange that nobody measured
        assume(False)


def times(found):
    return {name: getattr(found, name) for name in ("wire_s", "library_s", "closed_s", "latency_s")}


def never_longer(one, two, what):
    for name, value in times(two).items():
        if value is not None and times(one)[name] is not None:
            assert value >= times(one)[name] * (1 - 1e-9), (what, name)


@settings(max_examples=60, deadline=None)
@given(asks(), st.floats(1.01, 100.0))
def test_more_bytes_never_take_less_time(case, more):
    on, ask = case
    never_longer(answered(on, ask), answered(on, replace(ask, payload_bytes=ask.payload_bytes * more)), "bytes")


@settings(max_examples=60, deadline=None)
@given(asks(), st.sampled_from(["link bandwidth", "link speed of response"]), st.floats(1.05, 8.0))
def test_wider_or_quicker_links_never_take_more_time(case, resource, ratio):
    on, ask = case
    never_longer(answered(RESOURCES[resource](on, ratio), ask), answered(on, ask), resource)


@settings(max_examples=60, deadline=None)
@given(asks(tuple(MOVED)))
def test_no_rank_sends_faster_than_all_its_links(case):
    on, ask = case
    found = answered(on, ask)
    width = sum(level.bandwidth_bytes_per_s for level in on.plane(ask.plane).levels)
    least = MOVED[ask.kind] * ask.payload_bytes * (ask.ranks - 1) / ask.ranks / width
    for name, value in times(found).items():
        if value is not None and name != "latency_s":
            assert value >= least * (1 - 1e-9), name
    assert found.least_s <= found.wire_s * (1 + 1e-9)
    assert found.wire_s <= found.most_s * (1 + 1e-9)


@settings(max_examples=40, deadline=None)
@given(asks(), st.integers(0, 1000))
def test_a_seed_draws_what_is_drawn_and_nothing_else(case, seed):
    on, ask = case
    one, two = answered(on, ask), answered(on, replace(ask, seed=seed))
    if ask.kind not in ("dispatch", "combine"):
        assert two.wire_s == pytest.approx(one.wire_s, rel=1e-12)
    assert answered(on, ask).wire_s == one.wire_s
