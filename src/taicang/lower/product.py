"""Matrix products with the passes over their inputs that a stack makes of its own, and how ranks share heads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np

from taicang.errors import InvalidPlan
from taicang.formats import number_format
from taicang.lower.load import Setting
from taicang.lower.program import some
from taicang.ops import Gemm, GroupedGemm, Operator, Pointwise
from taicang.units import Count, Num

Item: TypeAlias = tuple[str, Operator, Count]
"""Label, operator, how often it runs."""


def split_heads(count: int, tp: Count, what: str) -> Any:
    """Heads of one rank. Raises ``InvalidPlan`` where ``tp`` ranks cannot share them, naming the nearest that can."""
    if some(count % tp) or some(tp - count):
        legal = [n for n in range(1, count + 1) if count % n == 0]
        asked = [tp] if isinstance(tp, int) else [int(n) for n in np.ravel(tp)]
        wrong = next(n for n in asked if n not in legal)
        near = [max(n for n in legal if n < wrong), *[n for n in legal if n > wrong][:1]]
        raise InvalidPlan(
            f"tp={wrong} does not divide {count} {what}; nearest that {'do' if len(near) > 1 else 'does'}: "
            f"{' and '.join(map(str, near))}"
        )
    return count // tp


def product(label: str, op: Gemm, setting: Setting, *, fused: bool = False) -> Iterator[Item]:
    """``op``, after the kernel that quantises its input where the stack runs one and no fusion (``fused``) has done so.

    That kernel reads bf16 and writes the 8-bit input with its scales.
    """
    form = number_format(op.dtype)
    if setting.stack.quantise_kernels and form.quantises and not fused:
        inputs = op.batch * op.m * op.k
        yield (
            f"quantise for {label}",
            Pointwise(
                kind="quantise", elements=inputs, moved_bytes=inputs * (2.0 + form.activation_bytes), flop=inputs * 4.0
            ),
            1,
        )
    yield label, op, 1


def dequantise(op: Gemm | GroupedGemm, bytes_: float) -> Pointwise:
    """Weights read in ``bytes_`` each and written in 16 bits, before a product takes them."""
    if isinstance(op, Gemm):
        weights: Num = op.n * op.k
    else:
        weights = op.experts_local * op.hidden * op.inter * (3.0 if op.gated else 2.0)
    return Pointwise(kind="rope", elements=weights, moved_bytes=weights * (bytes_ + 2.0))
