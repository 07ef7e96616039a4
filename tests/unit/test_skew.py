"""The load of the hottest rank against Monte Carlo of the law it approximates, and its exact ends."""

import numpy as np
import pytest

from taicang import catalog
from taicang.catalog.costing import cost_model
from taicang.cost.experts import experts, fit_for
from taicang.cost.skew import REACH, hot_rank, hottest_over_mean
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
