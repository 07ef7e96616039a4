"""``bitsandbytes``: linear layers of 8 and 4 bits and optimizers of 8: their kernels, and what they hold."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from taicang.virtual import fused
from taicang.virtual.kernels import DEVICE

BLOCK, STATE_BLOCK = 64, 256
"""Elements that share a scale: of 4-bit weights, of optimizer states."""
SMALL = 4096
"""Elements below which optimizer states stay in 32 bits."""


class _Dequantised(torch.autograd.Function):
    """A product with a frozen weight that is unpacked for it, forward and backward anew."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: Tensor, scales: Tensor, shape: tuple[int, int]) -> Tensor:
        """The layer's output; only the packed weight is kept."""
        ctx.save_for_backward(packed, scales)
        ctx.shape = shape
        return x @ _unpacked(packed, scales, shape, x.dtype).t()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """The input's gradient."""
        packed, scales = ctx.saved_tensors
        return grads[0] @ _unpacked(packed, scales, ctx.shape, grads[0].dtype), None, None, None


def _unpacked(packed: Tensor, scales: Tensor, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    made: Tensor = fused.fused("dequantize", lambda p, s: p.new_empty(shape, dtype=dtype), packed, scales)
    return made


class Linear(torch.nn.Linear):
    """A linear layer whose weight is packed once it moves to the device."""

    bits = 4
    weight: Any
    scales: Tensor | None

    def __init__(self, input_features: int, output_features: int, bias: bool = True, *_: Any, device: Any = None,
                 **__: Any) -> None:  # fmt: skip
        super().__init__(input_features, output_features, bias, device=device)
        self.weight.requires_grad_(False)
        self.register_buffer("scales", None)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Moving packs: what stays is the bytes of the format, and its scales."""
        if self.scales is None and fn(torch.empty(0)).device.type == DEVICE:
            count, group = self.weight.numel(), BLOCK if self.bits == 4 else self.in_features
            packed = torch.empty(count * self.bits // 8, dtype=torch.uint8, device=DEVICE)
            self.weight = torch.nn.Parameter(packed, requires_grad=False)
            self.scales = torch.empty(-(-count // group), dtype=torch.float32, device=DEVICE)
            if self.bias is not None:
                self.bias.data = fn(self.bias.data)
            return self
        return self if self.scales is not None else super()._apply(fn, recurse)

    def forward(self, x: Tensor) -> Any:
        """The product in the input's format."""
        if self.scales is None:
            return super().forward(x)
        out = _Dequantised.apply(x, self.weight, self.scales, (self.out_features, self.in_features))
        return out if self.bias is None else out + self.bias.to(out.dtype)


class Linear8bitLt(Linear):
    """Of 8 bits."""

    bits = 8


class Adam8bit(torch.optim.Optimizer):
    """Adam with two states of a byte an element and a scale a block; one kernel a parameter."""

    def __init__(self, params: Any, lr: float = 1e-3, **kwargs: Any) -> None:
        super().__init__(
            params, {"lr": lr} | {k: v for k, v in kwargs.items() if k in ("betas", "eps", "weight_decay")}
        )

    def step(self, closure: Any = None) -> Any:
        """One update, by a kernel that nothing is derived of."""
        loss = closure() if closure is not None else None
        for p in (p for group in self.param_groups for p in group["params"] if p.grad is not None):
            state = self.state[p]
            if not state:
                for name in ("state1", "state2"):
                    kind = torch.uint8 if p.numel() >= SMALL else torch.float32
                    state[name] = torch.empty(p.numel(), dtype=kind, device=p.device)
                    state[f"{name}_scales"] = torch.empty(-(-p.numel() // STATE_BLOCK), device=p.device)
            held = [*state.values()]
            fused.KERNELS[0].recorder.launch("adam_8bit", [p, p.grad, *held], [p, *held], {})
        return loss
