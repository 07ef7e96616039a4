"""Price of a dense matrix product: a roofline whose corners are rounded by the physics of tiled kernels.

    seconds = launch + S'( S(compute, memory), k-loop ) + quantise

S and S' are smooth maxima (p-norms). *compute* is the arithmetic at the sustained share of the peak, on an output grown
by the cores that idle at the edge of the last wave, and on a k grown by the fill of the software pipeline. *memory* is
each operand and the result once, at the sustained share of the bandwidth. The *k-loop* is the time that one core needs
to walk along k however little it has to do per step; kernels split k when it is long, and the best split of a loop with
a reduction at its end grows as sqrt(k). *quantise* is the pass that some kernels make over the activations first.

Every part grows with m, n, k and batch and falls with peak and bandwidth, hence so do the seconds. The figure is never
below flop / peak nor bytes / bandwidth. The form was chosen by cross-validation inside the calibrated-on rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from taicang.cost.cost import Cost, saturate
from taicang.errors import NotModelled
from taicang.formats import lenders, number_format
from taicang.hardware import Chip
from taicang.ops import Gemm
from taicang.units import Count, Num

RESULT_BYTES = 2.0
"""Results leave in bf16 whatever the operands' format."""
EVICTION = 8.0
"""How sharply a last-level cache forgets once the operands outgrow it (streaming through an LRU cache is a cliff)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GemmFit:
    """Constants of one kernel family on one chip, dimensionless relative to the chip's peaks where they can be."""

    launch_s: float
    """Time of a product too small to matter."""
    compute_efficiency_ratio: float
    """Sustained share of the arithmetic peak, the clock under load included."""
    memory_efficiency_ratio: float
    """Sustained share of the memory bandwidth."""
    k_step_s: float
    """Time that one core needs per element of k, unsplit."""
    split_k: Count
    """Length of k from which splitting it over cores pays."""
    fill_elements: Count
    """Output elements per core that idle cores of the last wave cost."""
    fill_exponent: Count
    """1: that waste is the same for every size; less: larger outputs waste more, as larger tiles are chosen."""
    fill_k: Count
    """Steps of k that filling and draining the pipeline costs."""
    sharpness: Count
    """Overlap of compute and memory (``cost.saturate``)."""
    loop_sharpness: Count
    """Overlap of the k-loop's latency with both."""
    quantise_ratio: float = 0.0
    """Time of the quantising pass relative to its bytes at full bandwidth; 0: not part of the kernel."""
    cache_ratio: float = 0.0
    """Share of the L2 capacity that a benchmark's repeated calls keep warm; matters only with ``warm``."""
    cache_speedup_ratio: float = 1.0
    """Bandwidth of warm operands relative to device memory."""


def gemm(op: Gemm, chip: Chip, fit: GemmFit, *, warm: bool = False, origin: str = "") -> Cost:
    """Price ``op`` on one rank of ``chip``; counts may be floats or arrays of one shape.

    ``warm`` says that the same operands were used just before (kernel benchmarks that do not flush the L2); a model's
    layers find it cold. ``batch`` products are one launch. Raises ``NotModelled`` where the chip lacks the arithmetic
    of the format. Source: roofline model (Williams et al., 2009) with Hockney-style half-performance lengths.
    """
    form = number_format(op.dtype)
    rows = op.batch * op.m
    outputs = rows * op.n
    flop = 2.0 * outputs * op.k
    moved: Num = (
        op.batch * op.n * op.k * form.weight_bytes + rows * op.k * form.activation_bytes + outputs * RESULT_BYTES
    )

    idle = fit.fill_elements * (chip.cores * chip.cube_share_ratio)
    grown = outputs + np.power(idle, fit.fill_exponent) * np.power(outputs, 1.0 - fit.fill_exponent)
    compute = 2.0 * grown * (op.k + fit.fill_k) / (chip.peak(form.peak) * fit.compute_efficiency_ratio)

    bandwidth = chip.memory.bandwidth_bytes_per_s
    memory = _fetched(moved, chip, fit, warm=warm) / (bandwidth * fit.memory_efficiency_ratio)
    loop = fit.k_step_s * op.k / np.sqrt(1.0 + op.k / fit.split_k)
    seconds = fit.launch_s + saturate(
        saturate(compute, memory, sharpness=float(fit.sharpness)), loop, sharpness=float(fit.loop_sharpness)
    )
    if form.quantises and fit.quantise_ratio:
        passed = rows * op.k * (2.0 + form.activation_bytes)
        quantise = _fetched(passed, chip, fit, warm=warm) * fit.quantise_ratio / bandwidth
        seconds, memory, moved = seconds + quantise, memory + quantise, moved + passed
    return Cost(
        seconds=seconds,
        compute_s=compute,
        memory_s=memory,
        latency_s=fit.launch_s + loop,
        flop=flop,
        moved_bytes=moved,
        origin=origin,
    )


def _fetched(moved: Num, chip: Chip, fit: GemmFit, *, warm: bool) -> Num:
    """Bytes in units of device-memory traffic: those found in a warm cache count less."""
    if not (warm and fit.cache_ratio):
        return moved
    missed = 1.0 / (1.0 + np.power(fit.cache_ratio * chip.l2_bytes / np.maximum(moved, 1.0), EVICTION))
    return moved * (missed + (1.0 - missed) / fit.cache_speedup_ratio)


NEAREST: Mapping[str, tuple[str, ...]] = {
    "fp32": ("bf16",),
    "fp16": ("bf16",),
    "mxfp4_w4a16": ("bf16",),
    "fp8": ("int8",),
    "int8": ("fp8", "bf16"),
    "w4a8": ("int8", "fp8"),
    "w4a8_fp8": ("fp8", "int8"),
    "mxfp4_w4a8": ("fp8", "int8"),
    "fp8_block": ("fp8", "int8"),
    "mxfp8": ("fp8_block", "fp8", "int8"),
    "nvfp4": ("mxfp4",),
    "mxfp4": ("nvfp4", "int8"),
}
"""Whose constants a format borrows where its own were not measured, best first; the bytes and the peak stay its own."""


def fit_for(fits: Mapping[str, GemmFit], dtype: str) -> GemmFit:
    """Constants for ``dtype``, its own or those of the nearest measured format; ``NotModelled`` if none is."""
    kernel = number_format(dtype).kernel
    for name in (kernel, *lenders(kernel, NEAREST)):
        if name in fits:
            return fits[name]
    raise NotModelled(f"no calibrated matrix product for {dtype} (this profile has {', '.join(sorted(fits))})")
