"""What takes time beside kernels: the way of a cache into or out of an instance, and the noise of its hosts."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from taicang.serve.request import SECOND


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """Moves take ``base + tokens * per_token`` ticks, one after the other."""

    base: int
    per_token: int

    def ticks(self, tokens: int) -> int:
        """Of ``tokens`` tokens."""
        return self.base + self.per_token * tokens


NO_TIME = Link(base=0, per_token=0)


PERIOD = 4096
"""Steps after which the noise of an instance repeats itself."""


class Jitter:
    """Ticks that the hosts of an instance add to each of its steps.

    Every rank's host is late by an exponential with mean ``mean_s``, drawn anew in each step; the step waits for the
    slowest of ``ranks``. Sums over any steps take constant time, so that a stretch of steps stays one event.
    """

    __slots__ = ("_upto",)

    def __init__(self, mean_s: float, ranks: int, seed: int) -> None:
        draw = random.Random(seed).random
        self._upto = [0]
        for _ in range(PERIOD):
            # the greatest of n exponentials, by inversion: P(all < x) = (1 - exp(-x))^n
            late = -math.log(-math.expm1(math.log(max(draw(), 1e-300)) / ranks) or 1e-300) * mean_s
            self._upto.append(self._upto[-1] + round(late * SECOND))

    def sum(self, first: int, steps: int) -> int:
        """Ticks that ``steps`` steps from step ``first`` on are longer."""
        return self._before(first + steps) - self._before(first)

    def _before(self, step: int) -> int:
        whole, rest = divmod(step, PERIOD)
        return whole * self._upto[-1] + self._upto[rest]
