"""Conversations and agent loops: every turn sends all that came before again, and a little more.

A session begins with a prefix that all sessions share (system prompt, tool descriptions) and one message. Each further
turn arrives some time (a user who thinks, a tool that runs) after the answer to the one before it; its prompt is the
whole conversation so far, answers included, and new tokens. Ids of blocks grow along, so that prefix caches find them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from taicang.errors import InvalidInput
from taicang.traffic.trace import Trace

BLOCK = 64


def sessions(
    count: int, turns: int, *, shared_tokens: int, new_tokens: int, output_tokens: int, delay_s: float,
    spread: float = 0.0, seed: int = 0, block: int = BLOCK,
) -> Trace:  # fmt: skip
    """``count`` sessions of ``turns`` turns. New tokens, answers and delays (exponential, if ``spread``) vary by
    ``spread``, evenly to either side. All sessions begin at time zero: ``arriving`` spreads their first turns."""
    if shared_tokens + new_tokens < 1:
        raise InvalidInput("a prompt needs tokens: give --input or --shared", where="--turns")
    rng = np.random.default_rng(seed)

    def vary(mean: int) -> NDArray[np.int64]:
        drawn: NDArray[np.int64] = np.round(mean * rng.uniform(1 - spread, 1 + spread, (count, turns))).astype(np.int64)
        return drawn

    new, answers = vary(new_tokens), np.maximum(vary(output_tokens), 1)
    before = np.cumsum(new + answers, axis=1) - answers  # the prompt, less the shared part
    inputs = np.maximum(before + shared_tokens, 1)
    waits = rng.exponential(delay_s, (count, turns)) if spread else np.full((count, turns), delay_s)
    waits[:, 0] = np.nan
    common = shared_tokens // block
    most = int(inputs.max()) // block + 2
    ids: list[Sequence[int]] = [
        _ids(int(tokens), block, common, common + at // turns * most, -1 - at)
        for at, tokens in enumerate(inputs.ravel().tolist())
    ]
    return Trace(
        name=f"{count} sessions of {turns} turns", kind="sessions", arrival_s=np.zeros(count * turns),
        input_tokens=inputs.ravel(), output_tokens=answers.ravel(), blocks=ids, block=block,
        session=np.repeat(np.arange(count), turns), delay_s=waits.ravel(),
    )  # fmt: skip


def _ids(tokens: int, block: int, common: int, first: int, last: int) -> list[int]:
    """Blocks that all share, then the session's own; one that is not full is this prompt's alone."""
    whole, rest = divmod(tokens, block)
    shared = min(common, whole)
    made = [*range(shared), *range(first + shared, first + whole)]
    return [*made, last] if rest else made
