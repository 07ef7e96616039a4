"""Experts one after the other, each of which looks its tokens up: Hugging Face's models before transformers 5.

What each expert costs beside its products, by the operators that PyTorch dispatches for the loop of
modeling_qwen3_moe.py. Forward: its row of the mask is read, the places of its tokens are listed (the host waits for
their number), tokens and weights gathered; in the end rows are weighed and added to their tokens. Backward: gradients
of gathered tokens go into zeros of the size of all tokens, which are added to those of the experts before.
"""

from __future__ import annotations

from dataclasses import replace

from taicang.lower.product import Item
from taicang.ops import GroupedGemm, Operator, Pointwise
from taicang.units import Num

GATHER, RETURN = "expert lookup", "expert return"
LAUNCHES = {"": 5.0, "data": 6.0, "weight": 3.0}
"""Kernels of one expert's products and activation in each pass: three products and two; three, a sum of two inputs'
gradients apart, and three; three."""


def looked_up(op: GroupedGemm, tokens: Num) -> tuple[Item, Item]:
    """What stands before and behind the products ``op`` of ``tokens`` tokens of a rank, for each expert."""
    wide = op.tokens * op.topk / op.experts * op.hidden
    marks = tokens * op.topk * 32.0  # in 64 bits: a row is read and written, then read to count and to list
    before = Pointwise(kind="activation", elements=wide, moved_bytes=wide * 4.0 + marks, launches=4)
    behind = Pointwise(kind="activation", elements=wide, moved_bytes=wide * 10.0, launches=2)
    return (GATHER, before, op.experts_local), (RETURN, behind, op.experts_local)


def backward(label: str, op: Operator, spread: Num) -> Operator:
    """The backward pass of either; all tokens are ``spread`` times those of an expert."""
    if label == RETURN and isinstance(op, Pointwise):  # select rows, scale them, sum what weights take of them
        return replace(op, moved_bytes=op.elements * 16.0, launches=4)
    if label == GATHER and isinstance(op, Pointwise):  # sum two inputs' gradients, put rows into zeros, add all tokens
        return replace(op, moved_bytes=op.elements * (12.0 + 8.0 * spread), launches=7)
    return op
