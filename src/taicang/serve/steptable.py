"""Step times of one instance as tables of integers, made in a few array calls of the cost model.

A simulator asks for millions of step times. Those of pure decode depend on the sequences n and the cached tokens c of
the largest attention group; they are tabulated over n and the mean length c / n and read off as straight lines in c
between the knots, so that the time of k steps in a row is an arithmetic series. A step with prompts adds four
statistics; of those the tokens are tabulated beside n, the query-key pairs, the cached tokens that they meet and the
number of prompts enter by their slopes. All in ticks (femtoseconds), and context in grains of 1/16 token.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from taicang.plans import Batch
from taicang.serve.request import SECOND
from taicang.serve.setup import Setup, step

GRAIN = 16
"""Grains of one token of context: a step with drafts adds a fraction of tokens."""
LONGEST = 2.0**20
"""Mean length of the last knot, in tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Decode steps of one batch size: ``ticks[i]`` with ``knots[i]`` grains, and ``slopes[i]`` more for each beyond."""

    knots: Sequence[int]
    ticks: Sequence[int]
    slopes: Sequence[int]

    def at(self, context: int) -> int:
        """Ticks of one step with ``context`` grains."""
        i = max(bisect_right(self.knots, context) - 1, 0)
        return self.ticks[i] + self.slopes[i] * (context - self.knots[i])

    def sum(self, context: int, growth: int, steps: int) -> int:
        """Ticks of ``steps`` steps in a row; context grows by ``growth`` grains after each."""
        total = 0
        while steps > 0:
            first, more, count = self._run(context, growth)
            count = min(count, steps)
            total += count * first + more * (count * (count - 1) // 2)
            context += count * growth
            steps -= count
        return total

    def reach(self, context: int, growth: int, ticks: int) -> int:
        """The least number of steps, at least one, that take ``ticks`` or longer."""
        passed = 0
        while True:
            first, more, count = self._run(context, growth)
            whole = count * first + more * (count * (count - 1) // 2)
            if whole >= ticks:
                break
            ticks -= whole
            passed += count
            context += count * growth
        if more:
            half = first - more / 2
            guess = int((np.sqrt(half * half + 2.0 * more * max(ticks, 0)) - half) / more)
        else:
            guess = ticks // first
        guess = max(guess, 1)
        while guess * first + more * (guess * (guess - 1) // 2) < ticks:
            guess += 1
        while guess > 1 and (guess - 1) * first + more * ((guess - 1) * (guess - 2) // 2) >= ticks:
            guess -= 1
        return passed + guess

    def _run(self, context: int, growth: int) -> tuple[int, int, int]:
        """(ticks of the next step, ticks more of each after it, steps until the next knot)."""
        i = max(bisect_right(self.knots, context) - 1, 0)
        first = self.ticks[i] + self.slopes[i] * (context - self.knots[i])
        if i + 1 == len(self.knots) or growth == 0:
            return first, self.slopes[i] * growth, 1 << 60
        return first, self.slopes[i] * growth, -(-(self.knots[i + 1] - context) // growth)


class StepTable:
    """Step times of ``setup`` with up to ``sequences`` decoding and ``tokens`` prompt tokens per attention group."""

    __slots__ = (
        "_experts", "_floor", "_grid", "_length", "_mixed", "_n", "_n_mixed", "_per", "_rows", "_tokens", "growth",
        "query_len",
    )  # fmt: skip

    def __init__(self, setup: Setup, *, sequences: int, tokens: int) -> None:
        self.query_len = int(setup.plan.query_len)
        self.growth = round(GRAIN * setup.plan.tokens_per_step)
        """Grains that one sequence adds per decode step."""
        self._rows: dict[int, Row] = {}
        self._n = _knots(sequences, 16, 1.13)
        self._length: Any = np.geomspace(1.0, LONGEST, 61)
        n, length = (each.ravel() for each in np.meshgrid(self._n, self._length, indexing="ij"))
        seconds = _seconds(setup, Batch(decode_sequences=n, decode_context=n * length))
        self._grid = np.maximum.accumulate(seconds.reshape(len(self._n), -1), axis=1)
        self._tokens = _knots(tokens, 1, 1.25).tolist()
        self._n_mixed = [0.0, *_knots(sequences, 2, 1.6).tolist()]
        self._mixed: Any = None
        self._per: Any = None
        self._experts: Any = []
        self._floor: list[float] = [0.0, 0.0]
        self._fill(setup)
        if setup.plan.dp > 1 and setup.plan.microbatches == 1:
            sizes = np.asarray(self._tokens)
            alone = Batch(
                prefill_tokens=sizes, prefill_sequences=1.0 + 0.0 * sizes,
                prefill_pairs=sizes, prefill_context=sizes,
            )  # fmt: skip
            spent = step(setup, alone).by_part().get("experts", 0.0) * SECOND
            self._experts = np.broadcast_to(spent, sizes.shape).tolist()

    def _fill(self, setup: Setup) -> None:
        """Times of one prompt of each size beside each batch, and the slopes in what else a prompt brings.

        The host's floor under a short step (launches outside graphs) is kept apart, so that slopes are the device's.
        """
        one = Batch(
            prefill_tokens=np.ones(2), prefill_sequences=1.0, prefill_pairs=1.0, prefill_context=1.0,
            decode_sequences=np.array([0.0, 1.0]), decode_context=np.array([0.0, REFERENCE]),
        )  # fmt: skip
        bound = np.broadcast_to(_seconds(setup, one) * SECOND, 2).tolist()
        setup = replace(setup, stack=replace(setup.stack, eager_kernel_s=0.0))
        free = np.broadcast_to(_seconds(setup, one) * SECOND, 2).tolist()
        self._floor = [a if a > b else 0.0 for a, b in zip(bound, free, strict=True)]
        t, n = (each.ravel() for each in np.meshgrid(self._tokens, self._n_mixed, indexing="ij"))
        shape = (len(self._tokens), len(self._n_mixed))

        def priced(pairs: Any, context: Any, prompts: Any) -> Any:
            batch = Batch(
                prefill_tokens=t, prefill_sequences=prompts, prefill_pairs=pairs, prefill_context=context,
                decode_sequences=n, decode_context=n * REFERENCE,
            )  # fmt: skip
            return _seconds(setup, batch).reshape(shape)

        pairs, once = t * (t + 1) / 2, t * 0.0 + 1.0
        base = priced(pairs, t, once)
        far = priced(pairs + t * REACH, t + REACH, once)
        wide = priced(pairs, t + REACH, once)
        several = priced(pairs, t, once * 2.0)
        tokens = np.asarray(self._tokens)[:, None]
        per_context = (wide - base) / REACH
        per_pair = (far - wide) / (tokens * REACH)
        # a decode batch beside prompts: what its context adds is read off the decode rows
        beside = [0.0 if not size else self._row_seconds(size) for size in self._n_mixed]
        self._mixed = ((base - np.asarray(beside)[None, :]) * SECOND).tolist()
        # slopes differ little between batches: those of the smallest and largest batch, averaged
        self._per = [
            tuple((slope[i].mean() * SECOND).tolist() for slope in (per_pair, per_context, several - base))
            for i in range(shape[0])
        ]

    def _row_seconds(self, n: float) -> float:
        i = int(np.argmin(np.abs(self._n - n)))
        return float(np.interp(REFERENCE, self._length, self._grid[i]))

    def row(self, n: int) -> Row:
        """Decode steps of ``n`` sequences in the largest group."""
        found = self._rows.get(n)
        if found is None:
            i = max(min(int(np.searchsorted(self._n, n)), len(self._n) - 1), 1) if len(self._n) > 1 else 0
            low, high = self._n[max(i - 1, 0)], self._n[i]
            share = 0.0 if high == low else (n - low) / (high - low)
            seconds = self._grid[max(i - 1, 0)] * (1 - share) + self._grid[i] * share
            ticks = [round(x * SECOND) for x in seconds.tolist()]
            knots = [round(n * GRAIN * x) for x in self._length.tolist()]
            slopes = [(ticks[j + 1] - ticks[j]) // max(knots[j + 1] - knots[j], 1) for j in range(len(knots) - 1)]
            found = self._rows[n] = Row(knots=knots, ticks=ticks, slopes=[*slopes, slopes[-1]])
        return found

    def idle_experts(self, most: float, mean: float) -> int:
        """Ticks that experts save in a step where the fullest group has ``most`` tokens and the groups ``mean``.

        Attention waits for the fullest group; experts work on the tokens of all of them together.
        """
        if not self._experts:
            return 0
        return max(int(self._expert_ticks(most) - self._expert_ticks(mean)), 0)

    def _expert_ticks(self, tokens: float) -> float:
        sizes = self._tokens
        i = min(max(bisect_right(sizes, tokens) - 1, 0), len(sizes) - 2)
        x = (tokens - sizes[i]) / (sizes[i + 1] - sizes[i])
        return float(self._experts[i] + (self._experts[i + 1] - self._experts[i]) * x)

    def mixed(self, tokens: int, prompts: int, pairs: float, keys: int, n: int, context: int) -> int:
        """Ticks of a step with ``tokens`` of ``prompts`` prompts, beside ``n`` decoding with ``context`` grains."""
        sizes, batches = self._tokens, self._n_mixed
        i = min(max(bisect_right(sizes, tokens) - 1, 0), len(sizes) - 2)
        x = (tokens - sizes[i]) / (sizes[i + 1] - sizes[i])
        low, high = self._mixed[i], self._mixed[i + 1]
        if n:
            j = min(max(bisect_right(batches, n) - 1, 0), len(batches) - 2)
            y = (n - batches[j]) / (batches[j + 1] - batches[j])
            a = low[j] + (low[j + 1] - low[j]) * y
            ticks = a + (high[j] + (high[j + 1] - high[j]) * y - a) * x
            ticks += self.row(n).at(context)
        else:
            ticks = low[0] + (high[0] - low[0]) * x
        per, more = self._per[i], self._per[i + 1]
        ticks += (pairs - tokens * (tokens + 1) / 2) * (per[0] + (more[0] - per[0]) * x)
        ticks += (keys - tokens) * (per[1] + (more[1] - per[1]) * x)
        ticks += (prompts - 1) * (per[2] + (more[2] - per[2]) * x)
        return max(int(ticks), int(self._floor[n > 0]), 1)


REFERENCE = 2048.0
"""Mean context of the decode batch beside which prompts are tabulated."""
REACH = 8192.0
"""Cached tokens over which a prompt's slopes are taken."""


def _knots(most: int, dense: int, ratio: float) -> Any:
    """Whole numbers from 1 to ``most``: all up to ``dense``, then ``ratio`` apart."""
    count = int(np.ceil(np.log(max(most, 2)) / np.log(ratio))) + 1
    wide = np.round(np.geomspace(1.0, float(max(most, 2)), count))
    return np.unique(np.concatenate([np.arange(1.0, min(dense, most) + 1), wide]))


def _seconds(setup: Setup, batch: Batch) -> Any:
    seconds: Any = np.asarray(step(setup, batch).seconds)
    return seconds
