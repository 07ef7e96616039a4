"""The load of the hottest rank against Monte Carlo of the law it approximates, and its exact ends."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taicang import catalog
from taicang.catalog.costing import cost_model
from taicang.cost import skew
from taicang.cost.experts import experts, fit_for
from taicang.cost.skew import MOST_SKEWED, REACH, exponent_of, hot_rank, hottest_over_mean
from taicang.ops import GroupedGemm


def drawn_loads(rng, experts, tokens, topk, alpha, samples):
    """Tokens per expert: independent power-law popularity, no expert above one pair per token."""
    steep, reach = alpha - 1.0, REACH * tokens
    popular = (1.0 - rng.random((samples, experts)) * (1.0 - reach**-steep)) ** (-1.0 / steep)
    pairs = tokens * topk
    for _ in range(8):
        popular = np.minimum(popular / popular.sum(axis=1, keepdims=True) * pairs, tokens)
    return rng.poisson(popular)


@pytest.mark.parametrize("alpha", [1.01, 1.2])
@pytest.mark.parametrize("tokens", [256, 4096])
@pytest.mark.parametrize(
    ("experts", "topk", "ranks"), [(8, 2, 4), (128, 8, 8), (256, 8, 4), (256, 8, 32), (256, 8, 128), (384, 8, 16)]
)
def test_hottest_rank_matches_monte_carlo(experts, topk, ranks, tokens, alpha):
    loads = drawn_loads(np.random.default_rng(1), experts, tokens, topk, alpha, 300)
    grouped = loads.reshape(len(loads), ranks, -1)
    per_rank = grouped.sum(axis=2)
    lead = float(np.mean(per_rank.max(axis=1) / per_rank.mean(axis=1)))
    hot = grouped[np.arange(len(loads)), per_rank.argmax(axis=1)]
    got = hot_rank(tokens=tokens, topk=topk, experts=experts, ranks=ranks, slots_local=experts / ranks, skew=alpha)
    assert got.lead == pytest.approx(lead, rel=0.2)
    assert got.touched == pytest.approx(float(np.mean((hot > 0).sum(axis=1))), rel=0.15)


@pytest.mark.parametrize("ranks", [1, 8, 256])
def test_even_router_loads_ranks_evenly(ranks):
    assert hottest_over_mean(experts=256, ranks=ranks, tokens=4096, topk=8, skew=0.0) == pytest.approx(1.0, abs=1e-3)


def test_one_rank_has_no_lead_and_touches_its_share_exactly():
    hot = hot_rank(tokens=5, topk=8, experts=256, ranks=1, slots_local=256, skew=0.0)
    assert hot.lead == pytest.approx(1.0)
    assert hot.rows == pytest.approx(40.0)
    assert hot.touched == pytest.approx(40.0, rel=1e-5)


COUNTS = st.floats(0.0, 5.0).map(lambda power: round(10.0**power))


@given(COUNTS, st.integers(1, 8), st.integers(3, 9), st.integers(0, 3), st.floats(0.0, 1.25))
def test_no_more_experts_are_touched_than_if_all_were_as_popular(tokens, topk, experts, ranks, skew):
    """Jensen: dealing a load and drawing from it touch less the more uneven it is."""
    experts, ranks = 2**experts, 2**ranks
    slots = experts / ranks
    hot = hot_rank(tokens=tokens, topk=topk, experts=experts, ranks=ranks, slots_local=slots, skew=skew)
    even, each = min(skew, 1.0), hot.rows / slots
    most = slots * ((1.0 - even) * min(each, 1.0) + even * -math.expm1(-each))
    assert hot.touched <= max(most, min(hot.rows, 1.0)) * (1.0 + 1e-9)
    assert min(1.0, hot.rows) <= hot.touched * (1.0 + 1e-9)


@given(COUNTS, st.integers(1, 8), st.sampled_from([16, 64, 256]), st.floats(0.0, 1.24))
def test_the_exponent_of_loads_is_that_under_which_they_lead(tokens, topk, experts, skew):
    given = {"experts": experts, "ranks": experts, "tokens": tokens, "topk": topk}
    lead = float(hottest_over_mean(**given, skew=skew))
    rest = (1.0 - lead / experts) / (experts - 1)
    loads = np.array([lead / experts, *[rest] * (experts - 1)]) * tokens * topk
    found = exponent_of(loads, topk)
    assert 0.0 <= found <= MOST_SKEWED
    assert hottest_over_mean(**given, skew=found) == pytest.approx(lead, rel=1e-6)


def test_lead_is_bounded_by_the_ranks_and_by_one_pair_per_token():
    every = hottest_over_mean(experts=8, ranks=8, tokens=1e5, topk=2, skew=1.5)
    assert 1.0 < every <= 4.0


def test_balancer_leaves_only_the_slot_that_exceeds_a_share():
    settings = {"experts": 256, "ranks": 32, "tokens": 4096, "topk": 8, "skew": 1.2}
    assert hottest_over_mean(**settings) > 2.0
    assert hottest_over_mean(**settings, slots=288, balanced=True) < 1.3
    alone = {**settings, "ranks": 256}
    assert hottest_over_mean(**alone, balanced=True) > 5.0


@pytest.mark.parametrize("tokens", [1, 7, 64, 1000, 30000])
def test_kernels_that_do_not_route_read_all_experts_and_take_no_longer_where_all_are_touched(tokens):
    chip = catalog.chip("h200")
    op = GroupedGemm(
        tokens=tokens, topk=8, experts=128, experts_local=64, hidden=4096, inter=768, dtype="fp8_block", skew=1.01
    )  # fmt: skip
    price = cost_model(catalog.machine("hgx-h200"), catalog.stack("vllm")).book.experts
    routed, whole = (experts(op, chip, fit_for(price, op.dtype), unrouted=each) for each in (False, True))
    least = 64 * 3 * 4096 * 768 / chip.memory.bandwidth_bytes_per_s
    assert whole.seconds >= max(routed.seconds, least)
    assert whole.seconds < routed.seconds * (1.3 if tokens > 1000 else 20.0)
    assert (whole.seconds > 1.5 * routed.seconds) == (tokens < 10)


def test_the_quadrature_s_nodes_are_legendre_s():
    nodes, weights = np.polynomial.legendre.leggauss(16)
    np.testing.assert_allclose(np.exp(skew._LOG_NODES), (nodes + 1.0) / 2.0, rtol=1e-14)
    np.testing.assert_allclose(skew._WEIGHTS, weights / 2.0, rtol=1e-14)
