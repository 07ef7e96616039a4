"""What attention groups have: remembered from step to step as if looked up anew at each."""

from hypothesis import given
from hypothesis import strategies as st

from taicang.serve.group import Lanes

GROW = 27


@st.composite
def histories(draw):
    """(groups, [(steps that pass, joins as (group, grains), share of the sequences there that leave)])."""
    groups = draw(st.integers(1, 6))
    joins = st.lists(st.tuples(st.integers(0, groups - 1), st.integers(0, 3000)), max_size=4)
    return groups, draw(st.lists(st.tuples(st.floats(0, 1), joins, st.floats(0, 1)), min_size=1, max_size=25))


@given(histories())
def test_what_is_remembered_is_what_a_search_would_find(history):
    groups, turns = history
    lanes, here, steps = Lanes(groups), [[] for _ in range(groups)], 0
    for share, joins, leaving in turns:
        for at, grains in joins:
            base = grains - GROW * steps
            here[at].append(base)
            lanes.joined(at, base)
        for at, bases in enumerate(here):
            for base in bases[: int(leaving * len(bases) * (at % 2))]:
                bases.remove(base)
                lanes.left(at, base)
        if not lanes.alive:
            continue
        n, context, growth, k = lanes.largest(GROW, steps, 1000)
        assert n == max(map(len, here))
        for i in (0, k - 1):  # the same group is ahead for all of these steps
            assert context + growth * i == max(sum(bases) + len(bases) * GROW * (steps + i) for bases in here)
        assert 1 <= k <= 1000
        steps += max(round(share * k), 1)
