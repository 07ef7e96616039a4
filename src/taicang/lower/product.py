"""Matrix products with the passes over their inputs that a stack makes of its own."""

from __future__ import annotations

from collections.abc import Iterator

from taicang.formats import number_format
from taicang.lower.load import Setting
from taicang.ops import Gemm, Operator, Pointwise
from taicang.units import Count


def product(label: str, op: Gemm, setting: Setting, *, fused: bool = False) -> Iterator[tuple[str, Operator, Count]]:
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
