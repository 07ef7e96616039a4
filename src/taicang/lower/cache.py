"""Bytes that a sequence's cache takes on one rank."""

from __future__ import annotations

import numpy as np

from taicang.formats import number_format
from taicang.models.types import Attention, GatedLinear, GroupedQuery, Latent
from taicang.units import Count


def kv_token_bytes(kind: Attention, tp: int, kv_dtype: str) -> float:
    """Cache bytes that one token adds on one rank (0 for a fixed-size state)."""
    element = number_format(kv_dtype).weight_bytes
    if isinstance(kind, GroupedQuery):
        heads = max(1, kind.kv_heads // tp)
        return heads * (kind.head_dim + (kind.v_head_dim or kind.head_dim)) * element
    if isinstance(kind, Latent):
        index = kind.indexer.head_dim * 1.0 if kind.indexer and not kind.indexer.shared else 0.0
        return (kind.kv_lora + kind.rope_dim) * element + index
    return 0.0


def kv_sequence_bytes(kind: Attention, tp: int, kv_dtype: str, context: Count) -> Count:
    """Cache bytes of one sequence of ``context`` tokens on one rank; windows cap it, linear attention keeps a state."""
    if isinstance(kind, GatedLinear):
        return (
            max(1, kind.v_heads // tp) * kind.k_dim * kind.v_dim * 4.0
            + (2 * kind.k_heads * kind.k_dim + kind.v_heads * kind.v_dim) / tp * kind.conv_width * 2.0
        )
    window = kind.window if isinstance(kind, GroupedQuery) else None
    held = context if window is None else np.minimum(context, window)
    return held * kv_token_bytes(kind, tp, kv_dtype)
