"""The time of one step, for a scheduler of somebody else's: an engine's simulation mode, a router, a study."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taicang.errors import InvalidInput
from taicang.plans import Batch, ServePlan, read_plan
from taicang.predict.system import System, pools
from taicang.search.door import settle
from taicang.serve.memory import cache_tokens
from taicang.serve.setup import step

LONGEST = 1 << 40
"""Tokens of a request, at most."""


class StepPredictor:
    """Prices steps of ``model`` on ``on``, laid out by ``plan`` ("TP4 EP4"; None: as a replay would) under ``stack``
    (None: the usual one). ``drafts`` (None: those of ``plan``) are tokens that each sequence checks beside its own.

    A step is what one attention group (data-parallel rank) works on: of each request ``extend`` new tokens after
    ``past`` ones that are in the cache. Up to 1 + ``drafts`` new tokens after some in the cache are a sequence that
    decodes; anything else is (part of) a prompt.
    """

    def __init__(
        self, model: str, on: str, plan: str | ServePlan | None = None, stack: str | None = None, *,
        quant: str = "auto", drafts: int | None = None, approximate: bool = False, sets: Sequence[str] = (),
    ) -> None:  # fmt: skip
        laid = read_plan(plan, "plan") if isinstance(plan, str) else plan
        if drafts is None:
            drafts = 0 if laid is None else int(laid.draft_tokens)
        system = System(
            instances=1, plan=laid, stack=stack, quant=quant, drafts=drafts, approximate=approximate, sets=sets
        )
        (self._pool,) = pools(*settle(system, model, on), system)
        self.setup = self._pool.setup
        """What is priced: model, plan, machine, stack."""

    def seconds(self, extend: Sequence[int], past: Sequence[int]) -> float:
        """Time of one step; of no request 0. Raises ``InvalidInput`` for lengths that are none."""
        return float(self.seconds_each([extend], [past])[0])

    def seconds_each(self, extend: Sequence[Sequence[int]], past: Sequence[Sequence[int]]) -> NDArray[np.float64]:
        """Times of many steps in one pass, each as ``seconds`` gives it."""
        if len(extend) != len(past):
            raise InvalidInput(f"{len(extend)} steps have new tokens, {len(past)} cached ones")
        sums = np.array([self._sums(new, old) for new, old in zip(extend, past, strict=True)], dtype=float)
        sums = sums.reshape(-1, 6)
        made = np.zeros(len(sums))
        prompts, decodes = sums[:, 0] > 0, sums[:, 4] > 0
        for chosen in (
            prompts & ~decodes,
            decodes & ~prompts,
            prompts & decodes,
        ):
            if chosen.any():
                made[chosen] = step(self.setup, self._batch(sums[chosen])).seconds
        return made

    def _batch(self, sums: NDArray[np.float64]) -> Batch:
        tokens, count, pairs, keys, sequences, context = sums.T
        prompts: dict[str, Any] = {}
        if tokens.any():
            prompts = {"prefill_tokens": tokens, "prefill_sequences": count, "prefill_pairs": pairs,
                       "prefill_context": keys}  # fmt: skip
        decode: dict[str, Any] = {"decode_sequences": sequences, "decode_context": context} if sequences.any() else {}
        return replace(Batch(), **prompts, **decode)

    def _sums(self, extend: Iterable[int], past: Iterable[int]) -> tuple[float, ...]:
        """What a step's time depends on."""
        new, old = np.asarray(list(extend), dtype=float), np.asarray(list(past), dtype=float)
        both = np.asarray(list(chain(new, old)))
        if len(new) != len(old):
            raise InvalidInput(f"{len(new)} requests have new tokens, {len(old)} cached ones")
        if both.size and not (np.all(both == np.floor(both)) and both.min() >= 0 and both.max() <= LONGEST):
            raise InvalidInput("lengths are whole numbers of tokens")
        if np.any(new < 1):
            raise InvalidInput("each request of a step has at least one new token")
        decodes = (new <= self.setup.plan.query_len) & (old > 0)
        n, p = new[~decodes], old[~decodes]
        pairs = (n * p + n * (n + 1) / 2).sum()
        return n.sum(), len(n), pairs, (n + p).sum(), decodes.sum(), old[decodes].sum()

    @cached_property
    def cache_tokens(self) -> int:
        """Tokens of cache that one attention group holds: what an engine is to be told that it has."""
        return int(cache_tokens(self.setup, tokens=float(self._pool.limits.tokens), context=4096.0))
