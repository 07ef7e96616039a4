"""Price of grouped-query attention (multi-head and multi-query too): flash attention, and split contexts in decode.

Prefill kernels give a core a tile of queries of one head and walk the keys before it: matrix products and exponentials
overlap, the causal diagonal and short sequences are padded to tiles, and the cores that get the last tiles finish late
(Graham's bound of list scheduling: all work over all cores, plus a share of one item). Backward kernels go through the
same tiles with more of both (``attend_pass``). Decode kernels stream the cache
once for all query heads of a key-value head, split the context among cores and combine the pieces.

Sources: FlashAttention-2 (arXiv 2307.08691) and -3 (arXiv 2407.08608) for tiles and the overlap of matrix products and
exponentials; Flash-Decoding for splitting the context.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import numpy as np

from taicang.cost.attend_pass import FORWARD, Pass, moved_bytes, pair_flop
from taicang.cost.cost import Cost, saturate
from taicang.errors import NotModelled
from taicang.formats import number_format
from taicang.hardware import Chip
from taicang.ops import Attend
from taicang.units import Num

TILE_QUERIES = 128.0
"""Query rows of a prefill tile."""
TILE_KEYS = 128.0
"""Keys of one step of a tile; the causal diagonal is padded to it."""
TILE_ROWS = 16.0
"""Rows (query heads of one key-value head x query tokens) of a decode tile: fewer rows cost as much arithmetic. As many
as one matrix instruction takes (mma.m16n8k16; a fractal of the cube). It binds where arithmetic is scarce (H20)."""
OVERLAP = 2.0
"""Exponent of the smooth maximum of what runs side by side: matrix products and exponentials in prefill; memory,
arithmetic and the split in decode."""
HEADS_PER_TILE = 32.0
"""Query heads per key-value head that one tile of a grouped decode kernel holds. An engine without a wider tile serves
larger groups with a kernel that reads the cache anew for each query head."""
HEAD_TOKENS = 1024.0
"""Context at which that kernel has filled half its pipeline."""
SPLIT_TOKENS = 256.0
"""Context at which a decode kernel has filled half its pipeline."""
IO_BYTES = 2.0
"""Queries and outputs are 16 bits wide at the border of the kernel, whatever it computes in."""
DECODE_MATRIX_RATIO = 0.5
"""Share of the matrix peak that decode kernels reach (assumed: no measured row is bound by it)."""
DECODE_SOFTMAX_RATIO = 1.0 / 32
"""Exponentials per FLOP of vector peak in decode kernels (assumed: about what prefill kernels reach)."""
L2_USABLE_RATIO = 0.85
"""Share of the level-2 cache that holds a streamed working set."""
L2_SHARPNESS = 8.0
"""Exponent of the passage from a working set that fits there to one that does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GqaPrefillFit:
    """Constants of the prefill kernels of one profile and dtype combination; efficiencies refer to the chip's peaks."""

    floor_s: float
    """Launch, first load and last store of an empty kernel."""
    matrix_efficiency_ratio: float
    softmax_ratio: float
    """Exponentials per FLOP of the chip's vector peak: special-function units do one per 16 vector FLOP or fewer."""
    tail_ratio: float
    """Work items (one query tile against its mean keys) that the last core runs alone; above one, a core also runs one
    item slower than its share of the peak (a kernel that needs several items per core to hide latency)."""
    bandwidth_efficiency_ratio: float
    """One pass over Q, K, V and O per share of the memory bandwidth, not hidden behind the arithmetic. Above one, the
    tensors come from the level-2 cache; kernels that quantise or append to the cache first make several passes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GqaDecodeFit:
    """Constants of the decode kernels of one profile and dtype combination."""

    floor_s: float
    """Launch, first load and last store of an empty kernel."""
    fill_s: float
    """What a grid that fills all cores with rows costs over an empty one."""
    ramp_s: float
    """Pipeline of one core over its first keys of 128 dimensions, once the context is long enough to fill it."""
    split_s: float
    """Splitting a context of L tokens n ways costs a L/n to read and b n to combine; the best n leaves
    2 sqrt(a b L), which is split_s sqrt(L)."""
    bandwidth_efficiency_ratio: float
    """Share of the memory bandwidth that streaming a long cache reaches."""
    resident_ratio: float
    """Bandwidth of the level-2 cache over that of the memory, for a cache that the last launch left there."""
    head_ramp_s: float = 0.0
    """Pipeline of the kernel for groups wider than a tile, over its first keys."""
    head_pass_ratio: float = 0.0
    """Seconds of one pass over the cache by one query head of such a group, over those of the memory at its peak: below
    one, since the heads of a group meet in the level-2 cache."""
    walk_s: float = 0.0
    """One key of 128 dimensions in a kernel that does not split the context: one core walks all keys of a sequence."""
    lone_flop: float = 0.0
    """Vector arithmetic per cached element where no heads share keys, in FLOP at the vector peak: kernels for these
    convert and multiply outside the matrix units, so that a faster memory does not help them (H100, H200)."""


AttendFit: TypeAlias = GqaPrefillFit | GqaDecodeFit
F = TypeVar("F", GqaPrefillFit, GqaDecodeFit)


def fit_for(fits: Mapping[str, F], dtype: str, kv_dtype: str, engine: str = "") -> F:
    """Constants for arithmetic in ``dtype`` over a cache in ``kv_dtype``; keys are "arithmetic/cache".

    Kernels belong to engines: "arithmetic/cache@engine" (trtllm, sglang, vllm) are the kernels of one, a key without an
    engine is the fastest of those measured, which an unknown or unmeasured engine takes.

    All 16-bit formats share the name bf16 in keys, all 8-bit ones fp8. A combination without rows takes the nearest
    kernel: 8-bit arithmetic takes that of 16 bits over the same cache, an 8-bit cache takes the kernel of a 16-bit one
    (bytes and peak are still its own). Raises ``NotModelled`` for other widths, and for 8-bit arithmetic over a 16-bit
    cache, which no kernel does.
    """
    widths = {1.0: "fp8", 2.0: "bf16"}
    core, cache = (widths.get(float(round(number_format(name).activation_bytes))) for name in (dtype, kv_dtype))
    if core is None or cache is None or (core, cache) == ("fp8", "bf16") or "fp4" in f"{dtype}{kv_dtype}":
        raise NotModelled(f"attention in {dtype} over a {kv_dtype} cache")
    for wanted in (f"{core}/{cache}", f"bf16/{cache}", "bf16/bf16"):
        for key in (f"{wanted}@{engine}", wanted):
            if key in fits:
                return fits[key]
    raise NotModelled(f"attention in {dtype} over a {kv_dtype} cache (calibrated: {', '.join(sorted(fits)) or 'none'})")


def attend_gqa(op: Attend, chip: Chip, fit: AttendFit, *, resident: bool = False, over: Pass = FORWARD) -> Cost:
    """Seconds of one rank's attention core; ``op`` holds floats or arrays of one shape.

    Lengths are the means that the operator's statistics give: keys per query = pairs / queries, context per sequence =
    context / sequences. ``context`` counts every token whose keys and values are read, the queries' own among them.
    ``resident`` says that the tensors still lie in the level-2 cache from the launch before, as in a benchmark that
    repeats one kernel; serving, where other layers pass in between, leaves it False. ``over`` is what a backward kernel
    takes over the forward one. Raises ``NotModelled`` for a dtype that the chip does not compute in and for constants
    of the other phase.
    """
    if op.kind != "gqa":
        raise NotModelled(f"attend_gqa prices kind 'gqa', not {op.kind!r}")
    if isinstance(fit, GqaPrefillFit) and op.phase != "decode":
        return _prefill(op, chip, fit, over, resident=resident)
    if isinstance(fit, GqaDecodeFit) and op.phase == "decode":
        return _decode(op, chip, fit, resident=resident)
    raise NotModelled(f"{op.phase} attention with constants of {type(fit).__name__}")


def _prefill(op: Attend, chip: Chip, fit: GqaPrefillFit, over: Pass, *, resident: bool) -> Cost:
    keys = np.maximum(op.context, op.queries)
    # Rows of a partly filled tile meet all keys of their sequence; each row's diagonal is padded by half a step.
    padded = op.heads * (op.pairs + keys * (TILE_QUERIES / 2) + op.queries * (TILE_KEYS / 2))
    rate = chip.peak(number_format(op.dtype).peak) * fit.matrix_efficiency_ratio
    pair_s = saturate(
        pair_flop(op) * over.product_ratio / rate,
        over.softmax_ratio / (chip.vector_flop_per_s * chip.vector_share_ratio * fit.softmax_ratio),
        sharpness=OVERLAP,
    )
    item = TILE_QUERIES * (op.pairs / np.maximum(op.queries, 1.0) + TILE_KEYS)
    alone = op.phase != "beside"  # tiles of lone tokens come first, and prompts fill what cores they leave
    floor_s = alone * fit.floor_s * over.launches
    compute_s = pair_s * (padded + alone * fit.tail_ratio * chip.cores * item)
    moved = moved_bytes(op, _moved(op, keys))
    share = fit.bandwidth_efficiency_ratio if resident else min(fit.bandwidth_efficiency_ratio, 1.0)
    memory_s = moved / (chip.memory.bandwidth_bytes_per_s * share)
    return Cost(
        seconds=floor_s + (compute_s + memory_s),
        compute_s=compute_s,
        memory_s=memory_s,
        latency_s=floor_s + 0.0 * memory_s,
        flop=pair_flop(op) * op.heads * op.pairs,
        moved_bytes=moved,
        origin=f"attend_prefill/{chip.profile}/{op.dtype}/{op.kv_dtype}",
    )


def _decode(op: Attend, chip: Chip, fit: GqaDecodeFit, *, resident: bool) -> Cost:
    padded = op.heads * op.pairs + op.kv_heads * (op.context * (TILE_ROWS / 2))
    compute_s = padded * saturate(
        2.0 * (op.qk_dim + op.v_dim) / (chip.peak(number_format(op.dtype).peak) * DECODE_MATRIX_RATIO),
        1.0 / (chip.vector_flop_per_s * chip.vector_share_ratio * DECODE_SOFTMAX_RATIO),
        sharpness=OVERLAP,
    )
    lone_s = (op.heads <= op.kv_heads) * op.context * op.heads * ((op.qk_dim + op.v_dim) * fit.lone_flop)
    compute_s = np.maximum(compute_s, lone_s / (chip.vector_flop_per_s * chip.vector_share_ratio))
    moved = _moved(op, op.context)
    memory_s = moved / (chip.memory.bandwidth_bytes_per_s * fit.bandwidth_efficiency_ratio)
    if resident:
        outside = np.power(moved / (L2_USABLE_RATIO * chip.l2_bytes), L2_SHARPNESS)
        missed = outside / (1.0 + outside)
        memory_s = memory_s * (missed + (1.0 - missed) * fit.bandwidth_efficiency_ratio / fit.resident_ratio)
    length = op.context / np.maximum(op.sequences, 1.0)
    width = np.sqrt((op.qk_dim + op.v_dim) / 256.0)
    walked = length * width
    rows = op.queries * op.heads
    filled_s = fit.floor_s + fit.fill_s * (rows / (rows + chip.cores))
    ramp_s = fit.ramp_s * (width * (walked / (walked + SPLIT_TOKENS)))
    # Either costs zero seconds where the constant does: engines that split always, kernels with a tile for every group.
    split_s = saturate(
        fit.split_s * np.sqrt(length), fit.walk_s * (length * ((op.qk_dim + op.v_dim) / 256.0)), sharpness=OVERLAP
    )
    cache = op.context * (op.heads * ((op.qk_dim + op.v_dim) * number_format(op.kv_dtype).activation_bytes))
    per_head_s = fit.head_ramp_s * (walked / (walked + HEAD_TOKENS)) + cache * (
        fit.head_pass_ratio / chip.memory.bandwidth_bytes_per_s
    )
    wide_s = np.where(op.heads > HEADS_PER_TILE * op.kv_heads, per_head_s, 0.0 * per_head_s)
    started_s = (filled_s + ramp_s) + wide_s
    return Cost(
        seconds=started_s + saturate(memory_s, compute_s, split_s, sharpness=OVERLAP),
        compute_s=compute_s,
        memory_s=memory_s,
        latency_s=started_s + split_s,
        flop=pair_flop(op) * op.heads * op.pairs,
        moved_bytes=moved,
        origin=f"attend_decode/{chip.profile}/{op.dtype}/{op.kv_dtype}",
    )


def _moved(op: Attend, keys: Num) -> Num:
    """Bytes of one pass over queries, outputs, keys and values."""
    token = op.kv_heads * ((op.qk_dim + op.v_dim) * number_format(op.kv_dtype).activation_bytes)
    return keys * token + op.queries * (op.heads * ((op.qk_dim + op.v_dim) * IO_BYTES))
