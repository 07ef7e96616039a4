"""How busy instances may be: the closed form against queues that are simulated, and its laws."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taicang.serve.queueing import busiest, fewest, first_token_s, wait_s

LAW = settings(deadline=None, derandomize=True, max_examples=200)
SHARE = st.sampled_from((0.5, 0.9, 0.95, 0.99))


def size(low, high):
    return st.floats(np.log2(low), np.log2(high)).map(lambda x: 2.0**x)


@LAW
@given(size(0.01, 1e4), size(1e-3, 100.0), size(1e-3, 1e3), SHARE, st.floats(1.0, 8.0))
def test_more_speed_a_later_limit_and_a_smaller_share_never_carry_less(rate, alone, limit, within, more):
    def carried(rate=rate, alone=alone, limit=limit, within=within):
        return rate * float(busiest(rate, alone, limit_s=limit, within_ratio=within))

    base = carried()
    assert 0.0 <= base <= rate
    assert carried(rate=rate * more) >= base
    assert carried(alone=alone / more) >= base
    assert carried(limit=limit * more) >= base
    assert carried(within=0.5) >= base * (1 - 1e-9) or within == 0.5
    assert carried(limit=np.inf) == rate
    if alone < limit:
        assert first_token_s(base / rate, rate, alone, within) <= limit * (1 + 1e-6)


@LAW
@given(size(0.01, 1e3), size(0.01, 1e3), size(1e-3, 10.0), st.floats(1.01, 100.0), SHARE)
def test_the_fewest_instances_carry_the_load_and_one_less_does_not(load, each, alone, room, within):
    limit = alone * room
    count = float(fewest(load, each, alone, limit_s=limit, within_ratio=within))
    assert np.isfinite(count)
    assert count * each * float(busiest(count * each, alone, limit_s=limit, within_ratio=within)) >= load * (1 - 1e-6)
    if count > 1:
        less = (count - 1) * each
        assert less * float(busiest(less, alone, limit_s=limit, within_ratio=within)) <= load * (1 + 1e-6)


@pytest.mark.parametrize("within", [0.9, 0.99])
@pytest.mark.parametrize("busy", [0.5, 0.8, 0.9])
def test_waits_are_those_of_a_simulated_queue(busy, within):
    gaps = np.random.default_rng(7).exponential(1.0 / busy, 400_000)
    # Lindley's recursion for service of one: the wait is the walk above its lowest point
    walk = np.concatenate([[0.0], np.cumsum(1.0 - gaps)])
    waits = walk - np.minimum.accumulate(walk)
    assert wait_s(busy, 1.0, within) == pytest.approx(float(np.quantile(waits[20_000:], within)), rel=0.2)
