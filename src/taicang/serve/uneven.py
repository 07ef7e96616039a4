"""Requests of unequal lengths: what their moments say of batches, and of attention groups that step together.

Groups in lock step wait for the one with the most work. Taken as lognormal with the mean and the variance that the
lengths give, the greatest of g equal groups exceeds the mean by a factor (``slowest_ratio``) that is one where all
lengths are equal and never more than g.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taicang.units import Count, Num

_SIGMAS = np.linspace(0.0, 3.0, 61)
"""Standard deviations of the logarithm that are tabulated; more count as the last."""
_DOUBLINGS = 14
"""Of groups that are tabulated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Moments of the lengths of prompts and outputs, taken as independent; by default all are equal."""

    input_ratio: float = 1.0
    """Mean square of the prompts' lengths over the square of their mean: attention's work grows with it."""
    output_ratio: float = 1.0
    """Likewise of the outputs: of the sequences that decode at a time, more are long ones."""
    key_variation_ratio: float = 0.0
    """Squared coefficient of variation, over the tokens of all prompts, of the keys that one attends to."""
    key_span_tokens: float = 0.0
    """Over how many tokens in a row it averages out (0: at once)."""
    context_variation_ratio: float = 0.0
    """Squared coefficient of variation of the cached tokens of a sequence in flight, as far as lengths differ."""

    def prompts_ratio(self, groups: Count, tokens: Count) -> Num:
        """Query-key pairs of the slowest of ``groups`` over their mean, with ``tokens`` prompt tokens in each."""
        if not self.key_span_tokens:
            return 1.0
        return slowest_ratio(groups, 1.0 / (1.0 / self.key_variation_ratio + tokens / self.key_span_tokens))

    def decode_ratio(self, groups: Count, sequences: Count) -> Num:
        """Cached tokens of the slowest of ``groups`` over their mean, with ``sequences`` decoding in each."""
        if not self.context_variation_ratio:
            return 1.0
        return slowest_ratio(groups, self.context_variation_ratio / sequences)


EVEN = Spread()


def spread(inputs: NDArray[np.float64], outputs: NDArray[np.float64]) -> Spread:
    """The moments of lengths in tokens.

    A token of a prompt attends to what stands before it: with lengths L the mean is K = E[L^2] / (2 E[L]) and the mean
    square E[L^3] / (3 E[L]). Over many tokens the pairs of prompt after prompt are a renewal process with reward, whose
    variance per token is Var[L^2 / 2 - K L] / E[L]. A sequence in flight has a length-biased output of which it has
    made an even share: of what varies in that, as much as equal outputs would have is left out.
    """
    mean, square, cube = (float(np.mean(inputs**k)) for k in (1, 2, 3))
    keys = square / (2.0 * mean)
    rewards = float(np.var(inputs * inputs / 2.0 - keys * inputs))
    made, made_square, made_cube = (float(np.mean(outputs**k)) for k in (1, 2, 3))
    context = mean + made_square / (2.0 * made)
    grown = (made_cube / (3.0 * made) - made_square**2 / (4.0 * made**2)) - made**2 / 12.0
    return Spread(
        input_ratio=square / mean**2,
        output_ratio=made_square / made**2,
        key_variation_ratio=max(cube / (3.0 * mean) / keys**2 - 1.0, 0.0),
        key_span_tokens=rewards / (keys**2 * mean),
        context_variation_ratio=max(square - mean**2 + grown, 0.0) / context**2,
    )


def slowest_ratio(groups: Count, variation: Count) -> Num:
    """Mean of the greatest of ``groups`` lognormals over their mean; ``variation`` is their squared coefficient of
    variation. Interpolated between powers of two."""
    sigma = np.sqrt(np.log1p(variation)) / _SIGMAS[1]
    doublings = np.minimum(np.log2(groups), _DOUBLINGS)
    i = np.minimum(sigma, len(_SIGMAS) - 1.001).astype(np.int64)
    j = np.minimum(doublings, _DOUBLINGS - 0.001).astype(np.int64)
    x, y = np.minimum(sigma, len(_SIGMAS) - 1) - i, doublings - j
    table = _table()
    near = table[i, j] + (table[i + 1, j] - table[i, j]) * x
    far = table[i, j + 1] + (table[i + 1, j + 1] - table[i, j + 1]) * x
    found: Num = near + (far - near) * y
    return found


@cache
def _table() -> Any:
    """E[max] by standard deviation and doublings of groups: the integral of exp(s z - s^2 / 2) over dF(z)^g."""
    edges = np.linspace(-9.0, 13.0, 2201)
    below = np.array([0.5 * math.erfc(-z / math.sqrt(2.0)) for z in edges.tolist()])
    middle = (edges[1:] + edges[:-1]) / 2.0
    weights = np.exp(_SIGMAS[:, None] * middle - _SIGMAS[:, None] ** 2 / 2.0)
    return weights @ np.stack([np.diff(below**g) for g in 2.0 ** np.arange(_DOUBLINGS + 1)], axis=1)
