"""Step times of one instance as tables, made in a few array calls of the cost model.

A simulator asks for millions of step times. Those of pure decode depend on the sequences n and the cached tokens c of
the largest attention group; they are tabulated over n and the mean length c / n and read off as straight lines in c
between the knots, so that the time of k steps in a row is an arithmetic series of whole ticks (femtoseconds); context
is counted in grains of 1/16 token. A step with prompts adds four statistics. Their tokens, the keys that a token reads
on average and the number of prompts span a second table, in which kernels are nearly linear between the knots; prompts
of unequal lengths meet more or fewer distinct keys than equal ones, which enters by two slopes. What n decoding
sequences add beside them is tabulated over the tokens and n.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass, fields, replace
from functools import cached_property
from math import sqrt
from typing import Any

import numpy as np

from taicang.models.types import Compressed, GroupedQuery, Latent, Model
from taicang.plans import Batch
from taicang.serve.request import SECOND
from taicang.serve.setup import Setup, graph_sequences, step

GRAIN = 16
"""Grains of one token of context: a step with drafts adds a fraction of tokens."""
LONGEST = 2.0**20
"""Mean length of the last knot, in tokens."""
REFERENCE = 2048.0
"""Mean context of the decode batch beside which prompts are tabulated."""
FAR = 16.0 * REFERENCE
"""The same where what a key adds to a step with prompts is not what it adds to one without."""
LARGEST = 2.0**62
"""Ticks beyond which numbers of 64 bits are too short."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Decode steps of one batch size: ``ticks[i]`` with ``knots[i]`` grains, and ``slopes[i]`` more for each beyond."""

    knots: Sequence[int]
    ticks: Sequence[int]
    slopes: Sequence[int]

    def at(self, context: int) -> int:
        """Ticks of one step with ``context`` grains."""
        i = bisect_right(self.knots, context, 1) - 1
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
            guess = int((sqrt(half * half + 2.0 * more * max(ticks, 0)) - half) / more)
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
        i = bisect_right(self.knots, context, 1) - 1
        first = self.ticks[i] + self.slopes[i] * (context - self.knots[i])
        if i + 1 == len(self.knots) or growth == 0:
            return first, self.slopes[i] * growth, 1 << 60
        return first, self.slopes[i] * growth, -(-(self.knots[i + 1] - context) // growth)


class StepTable:
    """Step times of ``setup`` with up to ``sequences`` decoding and ``tokens`` prompt tokens per attention group.

    Each part is priced when it is first asked for: a pool that only prefills never decodes, and the other way round.
    """

    def __init__(self, setup: Setup, *, sequences: int, tokens: int) -> None:
        self._setup = setup
        self.query_len = int(setup.plan.query_len)
        self.growth = round(GRAIN * setup.plan.tokens_per_step)
        """Grains that one sequence adds per decode step."""
        self._rows: dict[int, Row] = {}
        self._known: dict[tuple[int, int, float, int], int] = {}
        """Steps of prompts alone that were asked for before: single prompts of one length are."""
        self._ratio = 1.0
        self._n = _knots(sequences, 16, 6)
        self._length: Any = np.geomspace(1.0, LONGEST, 61)
        bounds = [limit * scale for limit in _limits(setup.model) for scale in (0.7, 1.0, 1.4)]
        self._axes: tuple[Any, Any, Any] = (
            _knots(tokens, 8, 3), _ascending(2.0 ** np.arange(21), bounds),
            _knots(min(sequences, tokens), int(setup.plan.pp), 1),
        )  # fmt: skip
        self._tokens, self._reads, self._prompts = (each.tolist() for each in self._axes)
        self._n_mixed = [0.0, *_knots(sequences, 2, 2).tolist()]
        # schedules that overlap, or share a pipeline's stages, make decoding and prompts depend on each other
        self._apart = setup.plan.pp == 1 and setup.plan.microbatches == 1
        self._some = 0.0 if self._apart else float(max(round(sequences**0.5), setup.plan.pp))

    @cached_property
    def _grid(self) -> Any:
        n, length = _crossed(self._n, self._length)
        seconds = _seconds(self._setup, Batch(decode_sequences=n, decode_context=n * length))
        return np.maximum.accumulate(seconds, axis=1)

    @cached_property
    def _experts(self) -> list[float]:
        """Ticks of the experts by a step's tokens; empty where one group, or what overlaps, has nothing to share."""
        if self._setup.plan.dp == 1 or self._setup.plan.microbatches > 1:
            return []
        sizes = self._axes[0]
        alone = Batch(
            prefill_tokens=sizes, prefill_sequences=1.0 + 0.0 * sizes, prefill_pairs=sizes, prefill_context=sizes
        )
        spent = step(self._setup, alone).of_part("experts") * SECOND
        found: list[float] = np.broadcast_to(spent, sizes.shape).tolist()
        return found

    @cached_property
    def _free(self) -> Setup:
        """Without the host's floor under a short step (launches outside graphs), which is kept apart."""
        return replace(self._setup, stack=replace(self._setup.stack, eager_kernel_s=0.0, piece_s=0.0, lengths_s=0.0))

    @cached_property
    def _floor(self) -> list[list[float]]:
        """The host's floor under a step of prompts alone, and of one that decodes too: in captured pieces, and not."""
        t, n = (each.ravel() for each in np.meshgrid([1.0, self._setup.stack.graph_tokens + 1.0], [0.0, 1.0]))
        one = Batch(
            prefill_tokens=t, prefill_sequences=1.0, prefill_pairs=t, prefill_context=t,
            decode_sequences=n, decode_context=n * REFERENCE,
        )  # fmt: skip
        floor = np.broadcast_to(step(self._setup, one).launches_s, t.shape).reshape(2, 2) * SECOND
        found: list[list[float]] = floor.tolist()
        return found

    @cached_property
    def _captured(self) -> float:
        """Sequences beyond which no graph decodes, nor beside prompts."""
        return float(graph_sequences(self._setup))

    def _launched(self, tokens: float, n: int) -> int:
        """Ticks until the host has launched a step with ``tokens`` of prompts beside ``n`` decoding."""
        beyond = tokens + n * self.query_len > self._setup.stack.graph_tokens or n > self._captured
        return int(self._floor[n > 0][beyond] * self._ratio)

    def _priced(self, of: Sequence[Any], n: Any, further: Any = 0.0, context: float = REFERENCE) -> Any:
        """Ticks of steps with tokens, reads and prompts ``of`` beside ``n`` decoding, that meet ``further`` keys."""
        t, reads, prompts = of
        batch = Batch(
            prefill_tokens=t, prefill_sequences=prompts, prefill_pairs=t * reads,
            prefill_context=_keys(t, reads, prompts) + further, decode_sequences=n, decode_context=n * context,
        )  # fmt: skip
        return _seconds(self._free, batch) * SECOND

    @cached_property
    def _cells(self) -> tuple[Any, ...]:
        return _crossed(*self._axes)

    @cached_property
    def _lone(self) -> Any:
        return self._priced(self._cells, 0.0 * self._cells[0])

    @cached_property
    def _alone(self) -> Any:
        """Prompts alone."""
        return self._lone.tolist()

    @cached_property
    def _beside(self) -> Any:
        """Prompts beside some decode batch."""
        return self._alone if self._apart else self._priced(self._cells, self._some + 0.0 * self._cells[0]).tolist()

    @cached_property
    def _more(self) -> Any:
        """What a key more adds where prompts are of unequal lengths."""
        keys = _keys(*self._cells)
        return ((self._priced(self._cells, 0.0 * keys, 2.0 * keys) - self._lone) / (2.0 * keys)).tolist()

    @cached_property
    def _less(self) -> Any:
        """What a key less spares."""
        keys = _keys(*self._cells)
        fewer = np.minimum(keys - self._cells[0], keys / 2)
        return ((self._lone - self._priced(self._cells, 0.0 * keys, -fewer)) / np.maximum(fewer, 1.0)).tolist()

    @cached_property
    def _riders(self) -> Any:
        """What other decode batches than that of ``_beside`` add, beyond their own step."""
        return self._ridden(REFERENCE)

    @cached_property
    def _far_riders(self) -> Any:
        """The same of long sequences, whose keys share a kernel with the prompts."""
        return self._ridden(FAR)

    def _ridden(self, context: float) -> Any:
        sizes, batches = self._axes[0], self._n_mixed
        t, n = _crossed(sizes, np.array(batches))
        one_prompt = [t, (t + 1) / 2, 1.0 + 0.0 * t]
        ridden = self._priced(one_prompt, n, context=context) - self._priced(one_prompt, self._some + 0.0 * t)
        own = [self.row(int(b)).at(round(b * context * GRAIN)) if b else 0 for b in batches]
        return (ridden - np.asarray(own, dtype=float)).tolist()

    def probe(self) -> None:
        """Raise from ``taicang.errors`` where steps cannot be priced at all."""
        _ = self._floor

    def row(self, n: int) -> Row:
        """Decode steps of ``n`` sequences in the largest group."""
        found = self._rows.get(n)
        if found is None:
            i, share = _place(self._n.tolist(), n)
            seconds = self._grid[i] * (1 - share) + self._grid[i + 1] * share
            ticks = np.rint(seconds * SECOND * self._ratio)
            whole: Any = ticks.astype(np.int64) if ticks[-1] < LARGEST else np.array([*map(int, ticks)], dtype=object)
            knots = np.rint(n * GRAIN * self._length).astype(np.int64)
            slopes = (np.diff(whole) // np.maximum(np.diff(knots), 1)).tolist()
            found = self._rows[n] = Row(knots=knots.tolist(), ticks=whole.tolist(), slopes=[*slopes, slopes[-1]])
        return found

    def shared(self, ticks: int, n: int, most: float, mean: float) -> int:
        """``ticks`` of a step beside ``n`` decoding, of groups of which the fullest has ``most`` tokens and all have
        ``mean``: attention waits for the fullest, experts work on the tokens of all together, the host launches both.
        """
        if not self._experts:
            return ticks
        spared = int((self._expert_ticks(most) - self._expert_ticks(mean)) * self._ratio)
        return min(ticks, max(ticks - spared, self._launched(most, n), 1))

    def _expert_ticks(self, tokens: float) -> float:
        sizes = self._tokens
        i, x = _place(sizes, tokens)
        return float(self._experts[i] + (self._experts[i + 1] - self._experts[i]) * x)

    def mixed(self, tokens: int, prompts: int, pairs: float, keys: int, n: int, context: int) -> int:
        """Ticks of a step with ``tokens`` of ``prompts`` prompts, beside ``n`` decoding with ``context`` grains."""
        if n:
            return self._mixed(tokens, prompts, pairs, keys, n, context)
        key = tokens, prompts, pairs, keys
        found = self._known.get(key)
        if found is None:
            found = self._mixed(*key, 0, 0)
            if len(self._known) < REMEMBERED:
                self._known[key] = found
        return found

    def _mixed(self, tokens: int, prompts: int, pairs: float, keys: int, n: int, context: int) -> int:
        i, x = _place(self._tokens, tokens)
        cube = self._beside if n else self._alone
        reads = pairs / tokens
        j, y = _place(self._reads, reads)
        k, z = _place(self._prompts, prompts)
        low, high = _plane(cube[i], j, y, k, z), _plane(cube[i + 1], j, y, k, z)
        ticks = low + (high - low) * x
        other = keys - max(prompts * reads + (tokens - prompts) / 2, tokens)  # see _keys
        if abs(other) >= 1.0:  # prompts of unequal lengths
            cube = self._more if other > 0 else self._less
            low, high = _plane(cube[i], j, y, k, z), _plane(cube[i + 1], j, y, k, z)
            ticks += other * (low + (high - low) * x)
        if n:
            j, y = _place(self._n_mixed, n)
            near = _plane(self._riders, i, x, j, y)
            ticks += near
            if self._setup.stack.joint_attention:
                ticks += (_plane(self._far_riders, i, x, j, y) - near) * (
                    (context / (n * GRAIN) - REFERENCE) / (FAR - REFERENCE)
                )
        own = self.row(n).at(context) if n else 0
        return max(int(ticks * self._ratio) + own, self._launched(tokens, n), 1)

    def slower(self, ratio: float) -> StepTable:
        """The same with all steps longer by ``ratio``."""
        if ratio == 1.0:
            return self
        _ = self._riders  # what is made of rows is made at this pace
        made = copy(self)
        made._rows, made._known, made._ratio = {}, {}, self._ratio * ratio
        return made


REMEMBERED = 1 << 16
"""Steps of prompts alone that are kept."""


def _keys(tokens: Any, reads: Any, prompts: Any) -> Any:
    """Keys that equal prompts meet whose tokens read ``reads`` keys each, on average."""
    return np.maximum(prompts * reads + (tokens - prompts) / 2, tokens)


def _limits(model: Model) -> list[int]:
    """Most keys that a token reads, by the kinds of attention that have such a bound."""
    found = set()
    for block in model.blocks:
        kind = block.attention
        if isinstance(kind, GroupedQuery) and kind.window:
            found.add(kind.window)
        if isinstance(kind, Compressed):
            found |= {kind.window} | ({kind.indexer.topk * kind.ratio} if kind.indexer else set())
        if isinstance(kind, Latent) and kind.indexer:
            found.add(kind.indexer.topk)
    return sorted(found)


def _place(knots: Sequence[float], x: float) -> tuple[int, float]:
    """The knot below ``x`` and the share of the way to the next; beyond the last knot straight on."""
    i = bisect_right(knots, x, 1, len(knots) - 1) - 1
    return i, (x - knots[i]) / (knots[i + 1] - knots[i])


def _plane(values: Sequence[Sequence[float]], j: int, y: float, k: int, z: float) -> float:
    """Bilinear interpolation."""
    near, next_ = values[j], values[j + 1]
    a = near[k] + (near[k + 1] - near[k]) * z
    return a + (next_[k] + (next_[k + 1] - next_[k]) * z - a) * y


def _knots(most: int, dense: int, octave: int) -> Any:
    """Whole numbers from 1 to ``most`` or a little more: all up to ``dense``, then ``octave`` in each.

    Tables of other limits have the same ones, so that a step has one time whatever else may run.
    """
    count = int(np.ceil(np.log2(max(most, 2)) * octave)) + 1
    wide = np.round(2.0 ** (np.arange(count) / octave))
    return _ascending(np.arange(1.0, dense + 1), wide)


def _ascending(*values: Iterable[float]) -> Any:
    """All that differ, in order (``np.unique`` would load masked arrays for that, which takes longer than a replay)."""
    return np.array(sorted({float(each) for some in values for each in some}))


def _crossed(*axes: Any) -> tuple[Any, ...]:
    """Each of ``axes`` along a dimension of its own: what depends on one of them is priced for its knots alone."""
    return np.meshgrid(*axes, indexing="ij", sparse=True)


def _seconds(setup: Setup, batch: Batch) -> Any:
    cells = np.broadcast_shapes(*(np.shape(getattr(batch, each.name)) for each in fields(batch)))
    return np.broadcast_to(step(setup, batch).seconds, cells)
