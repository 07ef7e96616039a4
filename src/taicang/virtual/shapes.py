"""Shape rules of operators that PyTorch has kernels for on devices alone, and so no rule on a build for the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def install() -> torch.library.Library:
    """Register them for tensors that are shapes alone; the library is to be kept."""
    library = torch.library.Library("aten", "IMPL", "Meta")
    for name, rule in (
        ("batch_norm_stats", _per_channel), ("batch_norm_update_stats", _per_channel),
        ("batch_norm_gather_stats", _per_channel), ("batch_norm_gather_stats_with_counts", _per_channel),
        ("batch_norm_elemt", _like), ("batch_norm_backward_elemt", _like), ("batch_norm_backward_reduce", _reduced),
        ("_grouped_mm", _grouped), ("_thnn_fused_gru_cell", _gru), ("_thnn_fused_gru_cell_backward", _gru_backward),
    ):  # fmt: skip
        library.impl(name, rule, allow_override=True)
    return library


def _channels(source: Tensor) -> Tensor:
    kind = torch.float32 if source.dtype in (torch.float16, torch.bfloat16) else source.dtype
    return source.new_empty(source.shape[1], dtype=kind)


def _per_channel(source: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    """Two statistics of each channel."""
    return _channels(source), _channels(source)


def _like(source: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(source)


def _reduced(grad: Tensor, source: Tensor, mean: Tensor, deviation: Tensor, weight: Any, *wanted: bool) -> Any:
    """Two sums where the input's gradient is asked for, then gradients of the weight and the bias."""
    made = [_channels(source) if want else None for want in (wanted[0], wanted[0], *wanted[1:])]
    return tuple(made)


def _grouped(
    left: Tensor, right: Tensor, offs: Tensor | None = None, bias: Any = None, out_dtype: Any = None
) -> Tensor:
    """Products of groups: devices take every format, where PyTorch's own rule takes one."""
    batched = [len(offs)] if offs is not None and left.dim() == right.dim() == 2 else []
    batched = [right.shape[0]] if left.dim() == right.dim() == 3 else batched
    return left.new_empty(*batched, left.shape[-2], right.shape[-1], dtype=out_dtype or left.dtype)


def _gru(gates: Tensor, other: Tensor, hidden: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    """One step of a GRU, and what its gradient needs: five values of each unit."""
    return torch.empty_like(hidden), hidden.new_empty(hidden.shape[0], 5 * hidden.shape[1])


def _gru_backward(grad: Tensor, kept: Tensor, biased: bool) -> tuple[Any, ...]:
    """Gradients of both inputs of the gates, of the state and of the biases."""
    gates = grad.new_empty(grad.shape[0], 3 * grad.shape[1])
    bias = [grad.new_empty(gates.shape[1]) if biased else None for _ in range(2)]
    return gates, torch.empty_like(gates), torch.empty_like(grad), *bias
