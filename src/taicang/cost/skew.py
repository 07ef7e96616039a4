"""How unevenly a router loads experts and ranks: the statistics that expert, exchange and serving prices share.

Model. Each expert draws its popularity independently from a truncated power law with density x**-alpha on [1, reach]
(the workload that public expert benchmarks impose), experts lie on ranks in contiguous groups, and the hottest rank
sets the pace. ``skew`` is alpha; below one the reach shrinks as reach**skew, so that 0 is a router that deals evenly.

The hottest of R ranks with m experts each is m draws conditioned on a rare event. Within the family of densities
(1 + g) u**g over quantiles u, a large-deviation argument fixes g: m times the divergence from the uniform density,
ln(1+g) - g/(1+g), equals ln R times a factor that grows with the spread of the loads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from taicang.units import Count, Num

SKEW = 1.01
"""Assumed exponent of expert popularity (the milder of the two that expert kernels were measured with)."""
REACH = 0.8
"""Most popular expert's ceiling over the least popular one's, per token: the reach of the law is REACH * tokens."""
REACH_FLOOR = 32.0
"""The reach does not shrink below this for a handful of tokens."""
MOST_SKEWED = 1.25
"""Steeper laws count as this: none was measured beyond 1.2, and 16 nodes no longer resolve their tail."""
SPREAD_REFERENCE = 1.05
"""Coefficient of variation at which the large-deviation bound is met as it stands (Monte Carlo over 8..384 experts)."""
SATURATION = 0.2
"""How fast that spread stops to matter where few experts share a rank and its hottest one decides (Monte Carlo)."""
SELF_SHARE = 1.5
"""How much a hot rank dampens its own lead by raising the mean it is compared with (Monte Carlo)."""
CAP_SHARPNESS = 8.0
"""Smooth minimum of the lead and its hard bounds (Monte Carlo)."""

# Gauss-Legendre's, which NumPy would load its polynomials for and solve: some 10 ms of every command
_RIGHT = (
    (0.09501250983763744, 0.18945061045506864), (0.2816035507792589, 0.18260341504492364),
    (0.45801677765722737, 0.16915651939500265), (0.6178762444026438, 0.1495959888165767),
    (0.755404408355003, 0.12462897125553407), (0.8656312023878318, 0.0951585116824926),
    (0.9445750230732326, 0.062253523938647456), (0.9894009349916499, 0.027152459411754176),
)  # fmt: skip
"""(node, weight) of the right half of 16."""
_NODES, _WEIGHTS = np.array([*((-node, weight) for node, weight in reversed(_RIGHT)), *_RIGHT]).T.copy()
_LOG_NODES: NDArray[np.float64] = np.log((_NODES + 1.0) / 2.0)
_WEIGHTS = _WEIGHTS / 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HotRank:
    """What the hottest rank of an expert group gets."""

    lead: Count
    """Its token-expert pairs over the mean of all ranks (>= 1)."""
    rows: Count
    """Token-expert pairs that it computes (at least one: some rank has to take the first token)."""
    touched: Count
    """Expected number of its experts (slots) that get any token."""


def _over_nodes(values: NDArray[np.float64]) -> Num:
    """Weighted sum over the 16 quadrature nodes on the last axis, by halving (same bits for scalars and arrays)."""
    part = values * _WEIGHTS
    for half in (8, 4, 2, 1):
        part = part[..., :half] + part[..., half : 2 * half]
    total: Num = part[..., 0]
    return total


def _column(value: Count) -> NDArray[np.float64]:
    return np.asarray(value, dtype=np.float64)[..., None]


def _softmin(value: Num, cap: Num) -> Num:
    """Smooth minimum of two non-negative numbers, never above either."""
    small = np.minimum(value, cap)
    ratio = small / np.maximum(np.maximum(value, cap), 1e-12)
    return small / np.power(1.0 + np.power(ratio, CAP_SHARPNESS), 1.0 / CAP_SHARPNESS)


def _tilt(rarity: Num) -> Num:
    """ln(1+g) for which ln(1+g) - g/(1+g) = ``rarity``: explicit, right at both ends, within 2 % between."""
    return rarity + 1.0 - np.exp(-np.sqrt(2.0 * rarity))


def hot_rank(
    *,
    tokens: Count,
    topk: Count,
    experts: Count,
    ranks: Count,
    slots_local: Count,
    skew: Count,
    balanced_ranks: bool = False,
) -> HotRank:
    """Load of the hottest of ``ranks`` ranks, each with ``slots_local`` expert slots (more than experts: replicas).

    ``tokens`` enter on all ranks together. ``balanced_ranks``: a balancer replicates the hottest experts into the spare
    slots and places slots so that ranks even out; what remains is a slot that alone exceeds a rank's fair share.
    Counts may be floats or arrays that broadcast. A skew above ``MOST_SKEWED`` is taken as ``MOST_SKEWED``.
    """
    tokens, topk, experts = np.maximum(tokens, 1e-9), np.maximum(topk, 1e-9), np.maximum(experts, 1.0)
    slots, ranks = np.maximum(slots_local, 1e-9), np.maximum(ranks, 1.0)
    pairs_per_rank = tokens * topk / ranks
    even = np.minimum(skew, 1.0)
    steep = np.minimum(np.maximum(skew, 1.01), MOST_SKEWED) - 1.0
    log_reach = np.maximum(even * np.log(np.maximum(REACH * tokens, REACH_FLOOR)), 1e-6)
    fall = 1.0 - np.exp(-steep * log_reach)
    first = (np.exp((1.0 - steep) * log_reach) - 1.0) / (1.0 - steep)
    second = (np.exp((2.0 - steep) * log_reach) - 1.0) / (2.0 - steep)
    mean = first * steep / fall
    # Popularity spreads the loads, and so does chance where experts get few tokens.
    variance = np.maximum(second * steep / fall / (mean * mean) - 1.0, 0.0)
    variance = variance + even * np.minimum(experts / (tokens * topk), experts)
    spread = np.sqrt(variance / (1.0 + variance / experts)) / SPREAD_REFERENCE

    grouped = 1.0 if balanced_ranks else slots
    crowd = experts if balanced_ranks else ranks
    rarity = spread * np.log(crowd) / grouped
    tilt = _tilt(rarity / (1.0 + SATURATION * rarity))
    quantile = np.exp(_LOG_NODES * np.exp(-_column(tilt)))
    load = np.exp(-np.log(1.0 - quantile * _column(fall)) / _column(steep))
    hot_mean = _over_nodes(load)
    lead = np.maximum(hot_mean / mean - 1.0, 0.0)
    lead = lead / (1.0 + SELF_SHARE * lead / crowd)
    lead = 1.0 + _softmin(lead, np.minimum(crowd, experts / topk) - 1.0)
    if balanced_ranks:
        # Spare slots split the hottest experts; the largest slot left then outweighs a rank's share, or not.
        spare = np.maximum(slots * ranks / experts - 1.0, 0.0)
        slot = lead / (1.0 + spare * lead)
        share = np.minimum(slot * ranks / experts, ranks)
        lead = np.power(1.0 + np.power(share, 8.0), 1.0 / 8.0)
        even_load = np.exp(-np.log(1.0 - np.exp(_LOG_NODES) * _column(fall)) / _column(steep))
        load, hot_mean = even_load, _over_nodes(even_load)
    rows = np.maximum(lead * pairs_per_rank, np.minimum(1.0, tokens * topk))
    per_slot = _column(rows / slots) * load / _column(hot_mean)
    drawn = 1.0 - np.exp(-per_slot)
    dealt = np.minimum(per_slot, 1.0)
    mix = _column(even)
    touched = slots * _over_nodes(dealt + mix * (drawn - dealt))
    touched = np.maximum(touched, np.minimum(rows, 1.0))
    return HotRank(lead=lead, rows=rows, touched=np.minimum(touched, slots))


def hottest_over_mean(
    *, experts: Count, ranks: Count, tokens: Count, topk: Count, skew: Count, slots: Count = 0, balanced: bool = False
) -> Num:
    """Load of the hottest rank over the mean rank, >= 1; ``slots`` counts the experts with their replicas (0: none)."""
    total = np.maximum(slots, experts)
    return hot_rank(
        tokens=tokens,
        topk=topk,
        experts=experts,
        ranks=ranks,
        slots_local=total / np.maximum(ranks, 1.0),
        skew=skew,
        balanced_ranks=balanced,
    ).lead


def exponent_of(loads: NDArray[np.float64], topk: float) -> float:
    """Exponent of the law under which the hottest expert leads the mean as it does in measured ``loads``.

    ``loads`` are token-expert pairs per expert. Found by bisection, since the lead grows with the exponent; an even
    load gives 0, one beyond all exponents ``MOST_SKEWED``.
    """
    experts, lead = float(len(loads)), float(loads.max() / loads.mean())
    low, high = 0.0, MOST_SKEWED
    for _ in range(40):
        middle = (low + high) / 2.0
        found = hottest_over_mean(
            experts=experts, ranks=experts, tokens=float(loads.sum()) / topk, topk=topk, skew=middle
        )
        low, high = (middle, high) if float(found) < lead else (low, middle)
    return low
