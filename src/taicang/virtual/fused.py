"""Kernels that libraries bring: one launch forward and one backward, with the shapes of a plain formula.

A formula in plain PyTorch says what comes out; it runs on shapes alone, unless every value is computed (functional
mode), where it is the kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from taicang.virtual import special
from taicang.virtual.kernels import DEVICE, Kernels

Formula = Callable[..., Any]
KERNELS: list[Kernels] = []
"""Of this process."""


def fused(name: str, formula: Formula, *args: Any, log: Callable[..., None] | None = None, **kwargs: Any) -> Any:
    """``formula`` as one kernel called ``name``; ``log`` notes it (default: by the bytes of its operands)."""
    places = [i for i, each in enumerate(args) if isinstance(each, Tensor)]
    tensors = [args[i] for i in places]
    if not any(t.device.type == DEVICE for t in tensors) or KERNELS[0].recorder.real:
        return formula(*args, **kwargs)

    def on(values: Sequence[Tensor]) -> Any:
        filled = list(args)
        for i, value in zip(places, values, strict=True):
            filled[i] = value
        return formula(*filled, **kwargs)

    return _Fused.apply(name, on, log or _log, *tensors)


def _log(name: str, ins: Sequence[Tensor], outs: Sequence[Tensor], *, backward: bool) -> None:
    said = f"{name}_backward" if backward else name
    KERNELS[0].recorder.launch(said, ins, outs, {})


class _Fused(torch.autograd.Function):
    """One kernel each way."""

    @staticmethod
    def forward(ctx: Any, name: str, on: Any, log: Any, *tensors: Tensor) -> Any:
        """Outputs of the formula's shapes."""
        shaped = on([torch.empty_strided(t.size(), t.stride(), dtype=t.dtype, device="meta") for t in tensors])
        several = isinstance(shaped, (tuple, list))
        made = tuple(
            torch.empty_strided(t.size(), t.stride(), dtype=t.dtype, device=DEVICE) if isinstance(t, Tensor) else t
            for t in (shaped if several else (shaped,))
        )
        outs = [t for t in made if isinstance(t, Tensor)]
        ctx.mark_non_differentiable(*[t for t in outs if not t.is_floating_point()])
        ctx.save_for_backward(*tensors)
        ctx.name, ctx.log = name, log
        log(name, tensors, outs, backward=False)
        return made if several else made[0]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Gradients of every input that wants one."""
        wanted = ctx.needs_input_grad[3:]
        made = [torch.empty_like(t) if want else None for t, want in zip(ctx.saved_tensors, wanted, strict=True)]
        outs = [t for t in made if t is not None]
        given = [g for g in grads if isinstance(g, Tensor)]
        ctx.log(ctx.name, [*ctx.saved_tensors, *given], outs, backward=True)
        return (None, None, None, *made)


def attend(query: Tensor, key: Tensor, value: Tensor, *, causal: bool, scale: float | None, layout: str,
           mask: Tensor | None = None, pairs: float | None = None) -> Tensor:  # fmt: skip
    """Attention of a library by its layout: "BSND", "BNSD", "SBH", "BSH" and "TND" of one long sequence."""

    def log(name: str, ins: Sequence[Tensor], outs: Sequence[Tensor], *, backward: bool) -> None:
        viewed = [_heads(t, layout) for t in ins[:3]]
        special.log_attention(KERNELS[0], viewed, outs, causal=causal, backward=backward, pairs=pairs)

    def formula(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (_heads(t, layout) for t in (q, k, v))
        out = special.plain((q, k, v, mask), causal, scale)
        return out.transpose(1, 2) if layout == "BSND" else out.transpose(1, 2)[0] if layout == "TND" else out

    return fused("attention", formula, query, key, value, log=log)


def seen(lengths: Sequence[int], causal: bool, window: Any = (-1, -1)) -> float:
    """Pairs of tokens that attend within sequences of these lengths; ``window`` limits both sides, -1 not."""
    total = 0.0
    for n in lengths:
        left, right = (n - 1 if each < 0 else min(each, n - 1) for each in window)
        right = 0 if causal else right
        total += n * (left + right + 1.0) - (left * (left + 1.0) + right * (right + 1.0)) / 2.0
    return total


def pairs(ends: Tensor, causal: bool, window: Any = (-1, -1)) -> float:
    """The same by where sequences end."""
    return seen([b - a for a, b in pairwise([int(each) for each in ends.cpu()])], causal, window)


def _heads(tensor: Tensor, layout: str) -> Tensor:
    if layout == "BNSD":
        return tensor
    return tensor[None].transpose(1, 2) if layout == "TND" else tensor.transpose(1, 2)


def norm(source: Tensor, weight: Tensor | None, eps: float, bias: Tensor | None = None, *, centre: bool = False) -> Any:
    """A norm over the last dimension in one kernel."""

    def formula(x: Tensor, w: Tensor | None, b: Tensor | None) -> Tensor:
        wide = x.float()
        wide = wide - wide.mean(-1, keepdim=True) if centre else wide
        out = (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)
        out = out if w is None else out * w
        return out if b is None else out + b

    return fused("layer_norm" if centre else "rms_norm", formula, source, weight, bias)


def swiglu(source: Tensor, dim: int = -1) -> Any:
    """The gated activation of halves that lie side by side."""

    def formula(x: Tensor) -> Tensor:
        gate, up = x.chunk(2, dim=dim)
        return torch.nn.functional.silu(gate) * up

    return fused("swiglu", formula, source)


def rotate(source: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool = False) -> Any:
    """Rotary embedding in one kernel."""

    def formula(x: Tensor, c: Tensor, s: Tensor) -> Tensor:
        if interleaved:
            turned = torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)
        else:
            turned = torch.cat((-x[..., x.shape[-1] // 2 :], x[..., : x.shape[-1] // 2]), dim=-1)
        return x * c + turned * s

    return fused("rotary", formula, source, cos, sin)
