"""How many ranks and nodes a token of a mixture of experts is sent to.

A router that draws ``topk`` of ``experts`` without replacement misses a given group of ``experts / groups`` of them
with the hypergeometric probability prod_i (experts - experts/groups - i) / (experts - i), i < topk; the expected
number of distinct groups hit follows exactly, by linearity of expectation.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np

from taicang.units import Count, Num

Spread: TypeAlias = Literal["random", "strided"]
"""Experts drawn at random, or laid out so that each token meets as many ranks as it can (balanced benchmarks)."""


def distinct_groups(topk: Count, experts: Count, groups: Count, *, spread: Spread = "random") -> Num:
    """Expected number of distinct groups (ranks, nodes) among the ``topk`` experts of a token.

    ``experts`` lie evenly in ``groups`` groups. Exact for whole numbers; between min(topk, groups) for "strided" and 1.
    """
    if spread == "strided":
        return np.minimum(topk, groups) * 1.0
    share = experts / groups
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
