"""Price of the expert feed-forward of one rank (grouped GEMM), on the hottest rank of its group.

    seconds = floor + expert * experts_listed + sqrt(compute^2 + memory^2)

* compute: 2 FLOP per weight and row over the format's peak; the sharded expert width is padded by some columns (rows
  wasted in last tiles were tried and not found: a half-empty tile belongs to an expert that memory binds anyway);
* memory: the weights of the experts that get a token at all, and the activations between the kernels (quantise,
  permute, up, activation, down, finalise), each counted once and scaled by one factor for how far the kernels fuse;
* a kernel without a tuned tile for its shape takes at least as long for its products as the L2 for their operands;
* floor: the run of kernels launched whatever the size, plus bookkeeping per expert listed: copies of gathered tokens
  are sorted over all experts of the layer, those that a dispatch brings over the rank's own; some kernels walk over
  all experts that the rank holds.

Rows and touched experts come from ``cost.skew``. Bounds that always hold: never under the touched weights at datasheet
bandwidth, never under the FLOP at datasheet peak.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from taicang.cost.cost import Cost, faster, saturate
from taicang.cost.skew import HotRank, hot_rank
from taicang.errors import NotModelled
from taicang.formats import lenders, number_format
from taicang.hardware import Chip
from taicang.ops import Gemm, GroupedGemm, Operator, Pointwise
from taicang.units import Count, Num

STREAM_BYTES = 2.0
"""Activations between kernels are bf16 unless quantised for a product."""

OVERLAP = 2.0
"""Exponent of the smooth maximum of compute and memory; a fit per format gained nothing in cross-validation."""

WIDENED = "w4a16"
"""Format whose kernels stand for all that widen weights in registers."""
STAND_INS: Mapping[str, tuple[str, ...]] = {
    "fp16": ("bf16",),
    "int8": ("fp8", "fp8_block", "bf16"),
    "fp8": ("fp8_block", "int8"),
    "fp8_block": ("fp8", "int8"),
    "mxfp8": ("fp8_block", "fp8", "int8"),
    "w4a8": ("fp8_block", "fp8", "int8", "bf16"),
    "w4a8_fp8": ("fp8", "int8"),
    "mxfp4_w4a16": (WIDENED, "bf16"),
    "mxfp4_w4a8": ("fp8", "fp8_block", "int8"),
    "mxfp4": ("nvfp4", "fp8", "int8"),
    "nvfp4": ("mxfp4", "fp8", "int8"),
}
"""Formats whose kernels resemble a format's, nearest first: their efficiencies are dimensionless and carry over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertsFit:
    """Calibrated constants of the grouped-GEMM kernels of one number format on one architecture."""

    compute_ratio: float
    """Of the format's peak, at full tiles."""
    stream_ratio: float
    """Of the datasheet bandwidth, reading weights."""
    width_waste: Count
    """Columns that padding adds to the sharded expert width."""
    activation_ratio: float
    """Activation traffic over that of each tensor crossing memory once per producer and consumer, at the same rate."""
    floor_s: float
    """Kernels of an empty layer."""
    expert_s: float
    """Bookkeeping (offsets, tile maps) per expert that copies are sorted over."""
    slot_ratio: float = 0.0
    """Share of a copy's activation traffic that ranks pay which do not hold its expert: Triton kernels keep a slot for
    every copy of a gathered token, zero those of others and sum them all, however few experts a rank has."""
    held_s: float = 0.0
    """Per expert that the rank holds, besides: persistent kernels (DeepGEMM's, in TensorRT-LLM) walk over all groups
    for their next tile, those without a token too."""
    beside: str = ""
    """Key of other kernels that the engine runs where they are the faster: vLLM's products of fp8 blocks on Hopper are
    DeepGEMM's for many tokens and wide shards of an expert, else Triton's."""
    least_tokens: Count = 0
    """Fewest tokens that the engine gives these kernels, where it has others beside them."""
    origin: str = "calibrated"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiles:
    """How an engine's one kernel for experts of 16 bits is cut where it has no tuned table for their shape.

    A core reads the operands of a tile from the L2 once: rows and columns of ``generic``, for as many products as it
    has elements. A tile half as high and wide asks for twice the bytes for a FLOP, and waits for the L2.
    """

    generic: tuple[int, int]
    tuned: frozenset[tuple[int, int]] = frozenset()
    """Experts of a rank and their width there, of each table on this chip."""
    every: bool = False
    """Its users tuned them for whatever they run."""
    tuned_as: str = ""
    """Whose measured kernels are by tuned tiles, where its own are mostly of shapes without ("": its own are)."""
    tuner: str = ""
    """The engine's program that finds them."""

    def has(self, op: GroupedGemm) -> Any:
        """Whether ``op`` runs by tuned tiles, for each candidate."""
        if self.every:
            return True
        held, width = op.experts_local, op.inter
        if not (isinstance(held, np.ndarray) or isinstance(width, np.ndarray)):
            return (round(held), round(width)) in self.tuned
        shapes = np.rint(held) + 1j * np.rint(width)
        return np.isin(shapes, [each + 1j * across for each, across in self.tuned])

    def operand_bytes(self, op: GroupedGemm, flop: Num) -> Num:
        """What cores read from the L2 for ``flop`` of ``op``, where it runs by the generic tile."""
        high, across = self.generic
        wide = number_format(op.dtype).weight_bytes
        return np.where(self.has(op), 0.0, flop * wide * (0.5 / high + 0.5 / across))[()]


def _cut(op: GroupedGemm, tiles: Tiles | None) -> Tiles | None:
    """``tiles`` where they are of the kernel that runs ``op``; other formats and libraries have their own."""
    wide = number_format(op.dtype).weight_bytes
    return tiles if wide == 2.0 and op.gathered and not (op.exchanged or op.biased) else None


def dispatched_key(dtype: str) -> str:
    """Key of the constants for tokens that an all-to-all brings (only those routed to this rank)."""
    return f"{dtype}:dispatched"


def fit_for(fits: Mapping[str, ExpertsFit], dtype: str, *, gathered: bool = True, engine: str = "") -> ExpertsFit:
    """Constants for ``dtype`` from one profile's ``fits``, or of the nearest measured format.

    Kernels belong to engines, as those of attention do ("fp8_block@sglang"); a key without one is the fastest measured.
    Those fed by a dispatch (``gathered`` false) come with its library, with constants of their own where measured.
    Raises ``NotModelled`` when neither the format nor a stand-in was measured.
    """
    kernel = number_format(dtype).kernel
    for name in (kernel, *lenders(kernel, STAND_INS)):
        for key in (f"{name}@{engine}", name) if gathered else (dispatched_key(name), name):
            if key in fits:
                return fits[key]
    have = ", ".join(sorted(fits)) or "none"
    raise NotModelled(f"no expert kernels calibrated for {dtype} (measured: {have})")


def priced(
    op: GroupedGemm, chip: Chip, fits: Mapping[str, ExpertsFit], *, engine: str = "", unrouted: bool = False,
    tiles: Tiles | None = None,
) -> Cost:  # fmt: skip
    """Price ``op`` by the kernels that ``engine`` runs, of one profile's ``fits``; raises as ``fit_for``."""
    fit = fit_for(fits, op.dtype, gathered=op.gathered, engine=engine)
    cost = experts(op, chip, fit, unrouted=unrouted, tiles=tiles)
    if (cut := _cut(op, tiles)) is not None and cut.tuned_as and np.any(has := cut.has(op)):
        tuned = experts(op, chip, fit_for(fits, op.dtype, engine=cut.tuned_as), unrouted=unrouted)
        cost = faster(cost, replace(tuned, seconds=np.where(has, tuned.seconds, np.inf)[()]))
    if not fit.beside:
        return cost
    # Never dearer than for the fewest tokens that these take, so that one more is not the faster there.
    most = experts(replace(op, tokens=np.maximum(op.tokens, fit.least_tokens)), chip, fit, unrouted=unrouted)
    most = replace(most, flop=cost.flop, moved_bytes=cost.moved_bytes)
    return faster(experts(op, chip, fits[fit.beside], unrouted=unrouted), most)


def load(op: GroupedGemm) -> HotRank:
    """What the rank that sets the pace gets of ``op``."""
    return hot_rank(
        tokens=op.tokens,
        topk=op.topk,
        experts=op.experts,
        ranks=op.experts / np.maximum(op.experts_local, 1e-9),
        slots_local=op.experts_local,
        skew=op.skew,
        balanced_ranks=op.balanced_ranks,
    )


def experts(
    op: GroupedGemm, chip: Chip, fit: ExpertsFit, *, unrouted: bool = False, tiles: Tiles | None = None
) -> Cost:
    """Price ``op`` on ``chip``; counts are floats or arrays of candidates (broadcast), seconds of the same shape.

    ``unrouted``: the kernels read the weights of all experts, tokens or not. ``tiles``: how the kernels are cut; None:
    as well as those that were measured. Raises ``NotModelled`` if the chip lacks the format's arithmetic.
    """
    form = number_format(op.dtype)
    hot = load(op)
    matrices = 3.0 if op.gated else 2.0
    width = op.inter + fit.width_waste
    # Tokens that the kernels read and write: all where they were gathered, else those with an expert here.
    share = np.minimum(hot.rows / np.maximum(op.tokens * op.topk, 1e-9), 1.0)
    here = op.tokens * (1.0 - np.power(1.0 - share, op.topk))
    entering = op.tokens if op.gathered else np.maximum(here, np.minimum(op.tokens, 1.0))

    slots = fit.slot_ratio * np.maximum(op.tokens * op.topk - hot.rows, 0.0) if op.gathered else 0.0 * hot.rows

    read = op.experts_local + 0.0 * hot.touched if unrouted else hot.touched
    weights = read * matrices * op.hidden * width * form.weight_bytes
    crossing = op.hidden * (2.0 * form.activation_bytes + 2.0 * STREAM_BYTES) + width * (
        matrices * STREAM_BYTES + 2.0 * form.activation_bytes
    )
    activations = entering * op.hidden * (2.0 * STREAM_BYTES + form.activation_bytes) + (hot.rows + slots) * crossing
    moved = weights + fit.activation_ratio * activations
    flop = 2.0 * matrices * op.hidden * op.inter * hot.rows
    padded = 2.0 * matrices * op.hidden * width * hot.rows

    compute_s = padded / (chip.peak(form.peak) * fit.compute_ratio)
    if (cut := _cut(op, tiles)) is not None:
        compute_s = np.maximum(compute_s, cut.operand_bytes(op, padded) / chip.l2_bytes_per_s)
    memory_s = moved / (chip.memory.bandwidth_bytes_per_s * fit.stream_ratio)
    latency_s = fit.floor_s + fit.expert_s * (op.experts if op.gathered else op.experts_local)
    latency_s = latency_s + fit.held_s * op.experts_local
    return Cost(
        seconds=latency_s + saturate(compute_s, memory_s, sharpness=OVERLAP),
        compute_s=compute_s,
        memory_s=memory_s,
        latency_s=latency_s + 0.0 * compute_s,
        flop=flop,
        moved_bytes=moved,
        origin=f"experts {chip.profile}/{op.dtype}: {fit.origin}",
    )


def by_products(op: GroupedGemm, price: Callable[[Operator], Cost]) -> Cost:
    """``op`` with each expert's products as a library's own, one after the other on several streams so that all
    launches but the first hide (Transformer Engine's ``nvte_multi_tensor_gemm``), and with their activation.

    In 8 bits and fewer a kernel copies the inputs along both axes before, for the products of this pass and the next.
    """
    rows = op.tokens * op.topk / op.experts * load(op).lead
    wide = op.inter * (2.0 if op.gated else 1.0)
    elements = rows * op.experts_local * op.inter
    moved = elements * 2.0 * (3.0 if op.gated else 2.0)
    if (form := number_format(op.dtype)).quantises:
        moved = moved + rows * op.experts_local * (op.hidden + op.inter) * (2.0 + 2.0 * form.activation_bytes)
    first, second = (
        price(Gemm(m=rows, n=n, k=k, dtype=op.dtype)) for n, k in ((wide, op.hidden), (op.hidden, op.inter))
    )
    between = price(Pointwise(kind="activation", elements=elements, moved_bytes=moved))
    latency = first.latency_s + second.latency_s

    def added(name: str) -> Num:
        each: Num = getattr(first, name) + getattr(second, name)
        more: Num = getattr(between, name)
        return op.experts_local * each + more

    return Cost(
        seconds=added("seconds") - (op.experts_local - 1.0) * latency,
        compute_s=added("compute_s"), memory_s=added("memory_s"), latency_s=latency + between.latency_s,
        flop=added("flop"), moved_bytes=added("moved_bytes"), origin=first.origin,
    )  # fmt: skip
