"""What one attention group carries in a step: tokens and attention pairs, with windows and sparse attention applied."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from taicang.plans import Batch, ServePlan
from taicang.stacks import Stack
from taicang.units import Count


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Tokens of one attention group, with the plan's query length applied to decode."""

    prefill_tokens: Count
    decode_tokens: Count
    tokens: Count
    batch: Batch
    query_len: Count
    sampled: Count
    """Tokens that need logits."""
    joint: bool = False
    """See ``Stack.joint_attention``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What every layer of a step is lowered in."""

    hidden: int
    plan: ServePlan
    stack: Stack
    load: Load
    skew: Count
    """Exponent of expert popularity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """Query-key pairs and distinct cached tokens that an attention kind touches in one phase."""

    pairs: Count
    context: Count


def load_of(plan: ServePlan, batch: Batch, stack: Stack) -> Load:
    """Token counts of ``batch`` under ``plan``."""
    decode = batch.decode_sequences * plan.query_len
    return Load(
        prefill_tokens=batch.prefill_tokens,
        decode_tokens=decode,
        tokens=batch.prefill_tokens + decode,
        batch=batch,
        query_len=plan.query_len,
        sampled=decode + batch.prefill_sequences,
        joint=stack.joint_attention,
    )


def prefill_reach(batch: Batch, limit: int | None) -> Reach:
    """Pairs and context of the prefill part; ``limit`` tokens at most are visible to a query (window or top-k).

    With L new tokens after C cached ones, query i sees min(C + i, limit) tokens; the sum has a closed form. Sequences
    are taken at their mean length, which is exact for equal sequences.
    """
    if limit is None:
        return Reach(pairs=batch.prefill_pairs, context=batch.prefill_context)
    sequences = np.maximum(batch.prefill_sequences, 1e-9)
    new = batch.prefill_tokens / sequences
    cached = np.maximum(batch.prefill_context / sequences - new, 0.0)
    whole = np.clip(limit - cached, 0.0, new)
    pairs = whole * cached + whole * (whole + 1) / 2 + (new - whole) * limit
    return Reach(
        pairs=np.minimum(pairs * sequences, batch.prefill_pairs),
        context=np.minimum(batch.prefill_context, (new + limit) * sequences),
    )


def decode_reach(batch: Batch, query_len: Count, limit: int | None) -> Reach:
    """Pairs and context of the decode part; each of ``query_len`` queries of a sequence sees the whole context."""
    context = batch.decode_context
    if limit is not None:
        context = np.minimum(context, batch.decode_sequences * limit)
    return Reach(pairs=context * query_len, context=context)
