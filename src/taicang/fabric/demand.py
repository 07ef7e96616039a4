"""Who sends how much to whom: skewed exchanges, and experts' tokens as a router draws them."""

from __future__ import annotations

import numpy as np

from taicang.errors import InvalidInput
from taicang.fabric.topology import Floats, Ints

CHUNK = 4_000_000
"""Draws at once."""
MOST_DRAWS = 1_000_000_000
"""Half a minute's."""


def popularity(count: int, exponent: float, rng: np.random.Generator) -> Floats:
    """Shares of ``count`` receivers whose ranks follow Zipf's law with ``exponent``, in a random order."""
    weight = np.arange(1, count + 1, dtype=np.float64) ** -exponent
    found: Floats = rng.permutation(weight / weight.sum())
    return found


def skewed(ranks: int, payload_bytes: float, exponent: float, rng: np.random.Generator) -> Floats:
    """Bytes from each rank (row) to each (column): everyone sends its payload where it is popular."""
    return np.broadcast_to(payload_bytes * popularity(ranks, exponent, rng), (ranks, ranks))


def dispatched(
    *, ranks: int, tokens: int, topk: int, experts: int, exponent: float, rng: np.random.Generator, merged: bool = True
) -> Ints:
    """Copies of tokens from each rank to each: ``topk`` distinct experts a token, by popularity.

    ``merged``: once to a rank that holds several of a token's experts. Beyond one expert a rank, experts are replicated
    and a replica is drawn. Raises ``InvalidInput`` for more choices than experts.
    """
    if topk > experts:
        raise InvalidInput(f"{topk} of {experts} experts", where="--topk")
    if (draws := ranks * tokens * experts) > MOST_DRAWS:
        raise InvalidInput(
            f"{tokens:,} tokens of {ranks:,} ranks over {experts:,} experts are {draws:,} draws, more than "
            f"{MOST_DRAWS:,}; fewer tokens of more bytes say nearly the same",
            where="--tokens",
        )
    keys = np.log(popularity(experts, exponent, rng))
    replicas = max(ranks // experts, 1)
    copies = np.zeros((ranks, ranks), dtype=np.int64)
    step = CHUNK // (tokens * experts) * tokens or max(CHUNK // experts, 1)
    for first in range(0, ranks * tokens, step):
        sender = np.arange(first, min(first + step, ranks * tokens)) // tokens
        drawn = keys + rng.gumbel(size=(len(sender), experts))
        chosen = np.argpartition(drawn, experts - topk, axis=1)[:, experts - topk :]
        holder = (
            chosen * ranks // experts if replicas == 1 else chosen + experts * rng.integers(replicas, size=chosen.shape)
        )
        code = np.arange(len(sender))[:, None] * ranks + holder
        code = np.unique(code) if merged else code.ravel()
        low, high = sender[0], sender[-1] + 1
        pair = (sender[code // ranks] - low) * ranks + code % ranks
        copies[low:high] += np.bincount(pair, minlength=(high - low) * ranks).reshape(-1, ranks)
    return copies
