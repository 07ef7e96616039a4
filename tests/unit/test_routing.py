"""Counts of distinct destinations against exact combinatorics, and the slowest of many ranks against sampling."""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
import pytest

from taicang.cost.routing import distinct_groups, expected_maximum_ratio


@pytest.mark.parametrize(("experts", "groups", "topk"), [(8, 4, 3), (8, 8, 3), (12, 3, 4), (10, 2, 5), (6, 6, 6)])
def test_distinct_groups_is_the_mean_over_all_choices(experts: int, groups: int, topk: int) -> None:
    each = experts // groups
    counts = [len({e // each for e in chosen}) for chosen in combinations(range(experts), topk)]
    assert distinct_groups(topk, experts, groups) == pytest.approx(sum(counts) / len(counts), rel=1e-12)


def test_distinct_groups_at_the_size_of_deepseek() -> None:
    exact = 32 * (1 - comb(256 - 8, 8) / comb(256, 8))
    assert distinct_groups(8, 256, 32) == pytest.approx(exact, rel=1e-12)


def test_with_one_expert_per_rank_every_expert_is_a_rank_of_its_own() -> None:
    assert distinct_groups(8, 256, 256) == pytest.approx(8.0, rel=1e-12)


def test_strided_routing_meets_as_many_ranks_as_there_are() -> None:
    assert (distinct_groups(8, 256, 4, spread="strided"), distinct_groups(8, 256, 64, spread="strided")) == (4.0, 8.0)


@pytest.mark.parametrize(
    ("topk", "experts", "groups"), [(8, 128, 8), (6, 128, 8), (4, 32, 8), (22, 512, 64), (8, 384, 32), (8, 64, 64)]
)
def test_consecutive_routing_is_the_mean_over_all_tokens(topk: int, experts: int, groups: int) -> None:
    each = experts // groups
    counts = [len({(token * topk + i) % experts // each for i in range(topk)}) for token in range(experts)]
    found = distinct_groups(topk, experts, groups, spread="consecutive")
    assert found == pytest.approx(sum(counts) / len(counts), rel=1e-12)


@pytest.mark.parametrize("ranks", [2, 8, 64, 288])
def test_expected_maximum_against_sampling(ranks: int) -> None:
    draws = np.random.default_rng(1).normal(1.0, 0.2, (20_000, ranks)).max(axis=1).mean()
    assert expected_maximum_ratio(ranks, 0.2) == pytest.approx(draws, rel=0.01)


def test_one_rank_waits_for_nobody() -> None:
    assert expected_maximum_ratio(1, 0.5) == 1.0
