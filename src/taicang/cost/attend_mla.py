"""Price of multi-head latent attention: absorbed decode (one latent shared by all heads) and unabsorbed prefill.

Decode kernels give a core a tile of rows (heads x query tokens) of one sequence and walk the latent cache with it;
small batches are split along the context and combined. Prefill kernels are flash attention with 192/128-wide heads:
tiles of queries walk the keys before them; the projection of the latent to keys and values is a product of its own, not
priced here, while appending the latent to the cache is.

Sources: DeepSeek-V2 (arXiv 2405.04434) section 2.1 for absorption; FlashAttention-2 (arXiv 2307.08691) for tiles and
causal skipping; Flash-Decoding (PyTorch blog, 2023) for splitting the context.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import numpy as np

from taicang.cost.attend_pass import FORWARD, Pass, moved_bytes, pair_flop
from taicang.cost.cost import Cost
from taicang.errors import NotModelled
from taicang.formats import number_format
from taicang.hardware import Chip
from taicang.ops import Attend
from taicang.units import Count, Num

BLOCK_TOKENS = 64.0
"""Cached tokens that a core loads together."""
PARTIAL_BYTES = 4.0
"""Partial outputs of a split context travel in FP32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _MlaFit:
    """Constants of a kernel of one profile and dtype combination."""

    arithmetic: str
    """Peak that the two products run at."""
    matrix_efficiency_ratio: float
    bandwidth_efficiency_ratio: float
    """Share of the bandwidth that streaming the latent cache reaches, or one pass over Q, K, V and O (passes that
    quantise them lower it)."""
    floor_s: float
    """Launch, first load and last store of an empty kernel."""
    tile_rows: Count
    """Rows (heads x query tokens; of a prompt its queries) that a core handles together; fewer cost as much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MlaDecodeFit(_MlaFit):
    """Of the absorbed kernel."""

    tile_s: float
    """What a core spends to begin and end one tile of rows of one sequence, whatever its context."""
    piece_s: float
    """What each further piece of a split context adds to the combination; infinite for kernels that do not split."""
    partials: Count
    """Partial outputs per row that are written and read again to combine the pieces."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MlaPrefillFit(_MlaFit):
    """Of the unabsorbed (flash attention) kernel."""

    append_bytes: float
    """Moved per query token besides Q, K, V and O: rotary part, appending the latent to the cache."""
    softmax_flop: float
    """Vector work of one score, in the FP32 lane operations that the chip's vector peak counts (an exponential takes as
    long as 16 of them)."""


MlaFit: TypeAlias = MlaDecodeFit | MlaPrefillFit
F = TypeVar("F", MlaDecodeFit, MlaPrefillFit)


def fit_for(fits: Mapping[str, F], dtype: str, kv_dtype: str) -> F:
    """Constants for activations in ``dtype`` over a cache in ``kv_dtype``: keys are "dtype/kv_dtype".

    A missing combination falls back on the one with the same cache format, then on bf16 over bf16: an 8-bit cache then
    streams its fewer bytes at the same efficiency and is computed in bf16. Raises ``NotModelled`` for other formats.
    """
    kv = "bf16" if kv_dtype == "fp16" else kv_dtype
    if (dtype in {"bf16", "fp16", "fp8"} and kv in {"bf16", "fp8", "int8"}) or (dtype, kv) == ("int8", "int8"):
        for key in (f"{dtype}/{kv}", f"bf16/{kv}", "bf16/bf16"):
            if key in fits:
                return fits[key]
    raise NotModelled(
        f"no constants of latent attention for {dtype} over a {kv_dtype} cache (have {', '.join(fits) or 'none'})"
    )


def _norm2(a: Num, b: Num) -> Num:
    """Smooth maximum of two times: their 2-norm."""
    a, b = 1.0 * a, 1.0 * b  # integer arrays would overflow
    out: Num = np.sqrt(a * a + b * b)
    return out


def _norm4(a: Num, b: Num) -> Num:
    """A sharper smooth maximum: their 4-norm."""
    a, b = 1.0 * a, 1.0 * b
    a2, b2 = a * a, b * b
    out: Num = np.sqrt(np.sqrt(a2 * a2 + b2 * b2))
    return out


def attend_mla(op: Attend, chip: Chip, fit: MlaFit, over: Pass = FORWARD) -> Cost:
    """Price ``op`` (kind "mla") on ``chip``; scalars or arrays of one shape. ``over``: see ``attend_gqa``.

    Raises ``NotModelled`` where ``fit`` is not of the kernel that ``op.phase`` names or the chip lacks its arithmetic.
    """
    if op.phase == "decode" and isinstance(fit, MlaDecodeFit):
        return _decode(op, chip, fit)
    if op.phase in ("prefill", "backward") and isinstance(fit, MlaPrefillFit):
        return _prefill(op, chip, fit, over)
    raise NotModelled(f"{type(fit).__name__} does not price the {op.phase} kernel of latent attention")


def _decode(op: Attend, chip: Chip, fit: MlaDecodeFit) -> Cost:
    """Absorbed form: every head scores the same latent of width qk_dim and sums its first v_dim elements."""
    score_flop = 2.0 * (op.qk_dim + op.v_dim)
    rows = 1.0 * op.queries * op.heads
    scores = 1.0 * op.pairs * op.heads
    # A tile of too few rows multiplies padding: each cached token costs at least tile_rows scores, in whole blocks.
    blocks = _norm4(op.context, BLOCK_TOKENS * op.sequences)
    padded = _norm4(scores, fit.tile_rows * blocks)
    cores = chip.cores * chip.cube_share_ratio
    rate = chip.peak(fit.arithmetic) * fit.matrix_efficiency_ratio
    matrix_s = padded * score_flop / rate
    # However idle the others are, one core walks its piece of the context alone. A context of walk_s cut into n pieces
    # takes walk_s / n + n piece_s, at best 2 sqrt(walk_s piece_s).
    walk_s = blocks / np.maximum(op.sequences, 1.0) * fit.tile_rows * (score_flop * cores / rate)
    chain_s = walk_s / (1.0 + np.sqrt(walk_s / (4.0 * fit.piece_s)))
    tiles = _norm4(op.sequences, rows / fit.tile_rows)
    compute_s = matrix_s + chain_s + tiles * (fit.tile_s / cores)

    act = number_format(op.dtype).activation_bytes
    cache_bytes = 1.0 * op.context * op.qk_dim * number_format(op.kv_dtype).activation_bytes
    ends_bytes = rows * (op.qk_dim + op.v_dim) * act
    partial_bytes = rows * op.v_dim * (2.0 * PARTIAL_BYTES * fit.partials)
    moved = cache_bytes + ends_bytes + partial_bytes
    memory_s = moved / (chip.memory.bandwidth_bytes_per_s * fit.bandwidth_efficiency_ratio)
    busy = _norm4(compute_s, memory_s)
    return Cost(
        seconds=fit.floor_s + busy,
        compute_s=compute_s,
        memory_s=memory_s,
        latency_s=fit.floor_s + 0.0 * busy,
        flop=scores * score_flop,
        moved_bytes=moved,
        origin=f"mla_decode/{chip.profile}",
    )


def _prefill(op: Attend, chip: Chip, fit: MlaPrefillFit, over: Pass) -> Cost:
    """Unabsorbed form: each head has keys of qk_dim and values of v_dim; causally skipped tiles are not computed."""
    score_flop = pair_flop(op)
    tile = fit.tile_rows
    # The diagonal tile of each row of tiles is half wasted; a sequence shorter than a tile still computes a whole one.
    padded = op.heads * _norm4(op.pairs + (0.5 * tile) * op.queries, (1.0 * tile * tile) * op.sequences)
    cores = chip.cores * chip.cube_share_ratio
    rate = chip.peak(fit.arithmetic) * fit.matrix_efficiency_ratio / over.product_ratio
    matrix_s = padded * score_flop / rate
    softmax_s = padded * (over.softmax_ratio * fit.softmax_flop / (chip.vector_flop_per_s * chip.vector_share_ratio))
    # However few tiles there are, the last tile of queries walks all keys on one core.
    length = op.context / np.maximum(op.sequences, 1.0)
    chain_s = length * tile * (score_flop * cores / rate)
    compute_s = _norm2(_norm2(matrix_s, softmax_s), chain_s)

    act = number_format(op.dtype).activation_bytes
    kv_bytes = number_format(op.kv_dtype).activation_bytes
    moved = (1.0 * op.queries * op.heads * act + 1.0 * op.context * op.kv_heads * kv_bytes) * (op.qk_dim + op.v_dim)
    moved = moved_bytes(op, moved) + fit.append_bytes * op.queries
    memory_s = moved / (chip.memory.bandwidth_bytes_per_s * fit.bandwidth_efficiency_ratio)
    # Loading Q, storing O, quantising and appending are stages or kernels of their own: nothing hides them.
    busy = compute_s + memory_s
    floor_s = fit.floor_s * over.launches
    return Cost(
        seconds=floor_s + busy,
        compute_s=compute_s,
        memory_s=memory_s,
        latency_s=floor_s + 0.0 * busy,
        flop=1.0 * op.pairs * op.heads * score_flop,
        moved_bytes=moved,
        origin=f"mla_prefill/{chip.profile}",
    )
