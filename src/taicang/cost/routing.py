"""How many ranks and nodes a token of a mixture of experts is sent to.

A router that draws ``topk`` of ``experts`` without replacement misses a given group of ``experts / groups`` of them
with the hypergeometric probability prod_i (experts - experts/groups - i) / (experts - i), i < topk; the expected
number of distinct groups hit follows exactly, by linearity of expectation.
"""

from __future__ import annotations

import numpy as np

from taicang.ops import Spread
from taicang.units import Count, Num


def distinct_groups(topk: Count, experts: Count, groups: Count, *, spread: Spread = "random") -> Num:
    """Expected number of distinct groups (ranks, nodes) among the ``topk`` experts of a token.

    ``experts`` lie evenly in ``groups`` groups. Exact for whole numbers; between min(topk, groups) for "strided" and 1.
    Consecutive experts begin at multiples of ``topk``, so a token meets a boundary of groups of ``share`` experts
    (topk - gcd(topk, share)) / share times on the mean.
    """
    if spread == "strided":
        return np.minimum(topk, groups) * 1.0
    share = experts / groups
    if spread == "consecutive":
        common = np.gcd(np.rint(topk).astype(int), np.rint(np.maximum(share, 1.0)).astype(int))
        met: Num = np.minimum(1.0 + (topk - common) / share, np.minimum(topk, groups))
        return met
    missed: Num = 1.0
    draws = int(np.ceil(np.max(topk)))
    several = isinstance(topk, np.ndarray)
    for i in range(draws):
        factor = np.maximum(experts - share - i, 0.0) / np.maximum(experts - i, 1.0)
        missed = missed * (np.where(i < topk, factor, 1.0) if several else factor)
    return groups * (1.0 - missed)


_TUKEY = 0.1349
"""Exponent of the Tukey lambda law that is closest to the normal."""


def expected_maximum_ratio(ranks: Count, dispersion_ratio: Num) -> Num:
    """Mean of the slowest of ``ranks`` ranks over the mean of one, for independent, alike and normal times.

    ``dispersion_ratio`` is the standard deviation over the mean. The expected largest of n normal draws is the quantile
    at (n - 3/8) / (n + 1/4) (Blom 1958), taken of the Tukey lambda law: within 4 %; nothing for one rank. The price of
    an exchange leaves this waiting out; the serving model adds it.
    """
    below = (ranks - 0.375) / (ranks + 0.25)
    above = 0.625 / (ranks + 0.25)
    return 1.0 + dispersion_ratio * (np.power(below, _TUKEY) - np.power(above, _TUKEY)) / 0.1975
