"""The backward pass of an attention core, as multiples of what the forward one asks of the matrix and the vector units.

Forward: scores, softmax while the keys go by (maximum, exponential, sum), weighted sum. Backward: scores again,
exponentials with the sums that were kept, then the gradients of weights, values, queries and keys. Both units run side
by side in either pass (FlashAttention-3, arXiv 2407.08608; the two kinds of cores of an Ascend chip), so another unit
may bind than forward: the reductions fall away, three products are added.
"""

from __future__ import annotations

from dataclasses import dataclass

from taicang.ops import Attend
from taicang.units import Num


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """What the kernels of one pass take over the forward kernel."""

    product_ratio: float
    """Seconds of a FLOP of the products."""
    softmax_ratio: float
    """Vector work of a score."""
    launches: float
    """Kernels, one after the other."""


FORWARD = Pass(product_ratio=1.0, softmax_ratio=1.0, launches=1.0)


def pair_flop(op: Attend) -> Num:
    """FLOPs of the products of one pair of a query and a key; backward three over keys' width and two over values'."""
    return 2.0 * (3.0 * op.qk_dim + 2.0 * op.v_dim if op.phase == "backward" else op.qk_dim + op.v_dim)


def moved_bytes(op: Attend, once: Num) -> Num:
    """Bytes that a pass moves, of which ``once`` are queries, keys, values and outputs.

    Backward moves each and its gradient, the outputs' for the row sums once more, and sums the queries' in 32 bits over
    all tiles of keys: cleared, added to, read to be rounded.
    """
    if op.phase != "backward":
        return once
    return 2.0 * once + op.queries * (op.heads * (2.0 * op.v_dim + 16.0 * op.qk_dim))
