"""Price of memory-bound kernels: norms, activations, rotary embeddings, routing, sampling, table look-ups.

No table of such kernels was at hand. Their two constants, the launch floor and the sustained share of the memory
bandwidth, are those of the bf16 matrix product of the same profile at its memory-bound end, which streams weights just
as these kernels stream activations. The ramp of bandwidth with size follows from the floor: a kernel reaches half of
its bandwidth at launch_s * bandwidth bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

from taicang.cost.cost import Cost, saturate
from taicang.hardware import Chip
from taicang.ops import Lookup, Pointwise
from taicang.units import Count


@dataclass(frozen=True, slots=True, kw_only=True)
class PointwiseFit:
    """Constants of streaming kernels on one chip."""

    launch_s: float
    """Time of a kernel with nothing to do."""
    memory_efficiency_ratio: float
    """Sustained share of the memory bandwidth."""
    sharpness: Count
    """Overlap of vector arithmetic and memory (``cost.saturate``)."""


def pointwise(op: Pointwise, chip: Chip, fit: PointwiseFit, *, origin: str = "") -> Cost:
    """Price ``op`` on one rank: the larger of its traffic and its vector arithmetic, and a floor per launch.

    Counts may be floats or arrays of one shape. Arithmetic runs at the vector units' peak of this stream's share.
    """
    memory = op.moved_bytes / (chip.memory.bandwidth_bytes_per_s * fit.memory_efficiency_ratio)
    compute = op.flop / (chip.vector_flop_per_s * chip.vector_share_ratio)
    latency = op.launches * fit.launch_s
    return Cost(
        seconds=latency + saturate(memory, compute, sharpness=float(fit.sharpness)),
        compute_s=compute,
        memory_s=memory,
        latency_s=latency,
        flop=op.flop,
        moved_bytes=op.moved_bytes,
        origin=origin,
    )


def lookup(op: Lookup, chip: Chip, fit: PointwiseFit, *, origin: str = "") -> Cost:
    """Price a gather: each row is read and written once. Counts may be floats or arrays of one shape."""
    moved = 2.0 * op.rows * op.row_bytes
    memory = moved / (chip.memory.bandwidth_bytes_per_s * fit.memory_efficiency_ratio)
    return Cost(
        seconds=fit.launch_s + memory,
        memory_s=memory,
        latency_s=fit.launch_s,
        moved_bytes=moved,
        origin=origin,
    )
