"""``liger_kernel``: its kernels by shapes and bytes, and what it changes of Hugging Face's models."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import torch
from torch import Tensor

from taicang.virtual import faces, fused
from taicang.virtual.flash import CrossEntropy


class _LinearLoss(torch.autograd.Function):
    """Head and loss piece by piece: no logits are kept, both gradients are made on the way forward."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, rows: Tensor, labels: Tensor) -> Tensor:
        """The loss."""
        many, width = rows.shape
        pieces = -(-weight.shape[0] // width)
        each = 1 << max(-(-many // pieces) - 1, 0).bit_length()
        grads = torch.empty_like(rows), torch.zeros_like(weight)
        loss = torch.zeros((), dtype=torch.float32, device=rows.device)
        for at in range(0, many, each):
            part = rows[at : at + each]
            logits = part @ weight.t()
            fused.KERNELS[0].recorder.launch("cross_entropy", [logits, labels[at : at + each]], [logits], {})
            grads[0][at : at + each] = logits @ weight
            grads[1].add_(logits.t() @ part)
        ctx.save_for_backward(*grads)
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Both gradients by the loss's own."""
        rows, weight = ctx.saved_tensors
        return weight * grads[0].to(weight.dtype), rows * grads[0].to(rows.dtype), None


def linear_loss(weight: Tensor, rows: Tensor, labels: Tensor) -> Tensor:
    """As composed where every value is computed."""
    if fused.KERNELS[0].recorder.real or rows.device.type == "cpu":
        return torch.nn.functional.cross_entropy((rows @ weight.t()).float(), labels)
    return _LinearLoss.apply(weight, rows, labels)


class LinearLoss(torch.nn.Module):
    """``LigerFusedLinearCrossEntropyLoss``."""

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def forward(self, lin_weight: Tensor, _input: Tensor, target: Tensor, *_: Any, **__: Any) -> Tensor:
        """The loss."""
        return linear_loss(lin_weight, _input, target)


def _gate(name: str, gate: Tensor, up: Tensor) -> Any:
    function = getattr(torch.nn.functional, "gelu" if name == "geglu" else "silu")
    return fused.fused(name, lambda a, b: function(a) * b, gate, up)


def _gated(name: str) -> Any:
    def forward(self: Any, x: Tensor) -> Any:
        return self.down_proj(_gate(name, self.gate_proj(x), self.up_proj(x)))

    return forward


class MLP(torch.nn.Module):
    """``LigerSwiGLUMLP``."""

    def __init__(self, config: Any, hidden_size: Any = None, intermediate_size: Any = None, **_: Any) -> None:
        super().__init__()
        hidden, inner = hidden_size or config.hidden_size, intermediate_size or config.intermediate_size
        self.gate_proj, self.up_proj = (torch.nn.Linear(hidden, inner, bias=False) for _ in range(2))
        self.down_proj = torch.nn.Linear(inner, hidden, bias=False)

    forward = _gated("swiglu")


def rotated(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *_: Any, unsqueeze_dim: int = 1, **__: Any) -> Any:
    """Both in a kernel."""
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    return fused.rotate(q, cos, sin), fused.rotate(k, cos, sin)


def _lossy(kind: Any) -> None:
    """A model for causal language whose loss never makes its logits."""
    before = kind.forward

    def forward(self: Any, *args: Any, labels: Any = None, **kwargs: Any) -> Any:
        if labels is None or not self.training:
            return before(self, *args, labels=labels, **kwargs)
        rows = self.model(*args, **kwargs)[0][:, :-1].flatten(0, 1)
        loss = linear_loss(self.lm_head.weight, rows, labels[:, 1:].flatten())
        return importlib.import_module("transformers.modeling_outputs").CausalLMOutputWithPast(loss=loss)

    kind.forward = forward


def change(name: str, norm: Any) -> Any:
    """``apply_liger_kernel_to_`` one family of Hugging Face's models."""

    def apply(rope: bool = True, swiglu: bool = True, cross_entropy: bool = False, rms_norm: bool = True,
              fused_linear_cross_entropy: bool = True, geglu: bool = True, **_: Any) -> None:  # fmt: skip
        family: Any = importlib.import_module(f"transformers.models.{name}.modeling_{name}")
        if rope and hasattr(family, "apply_rotary_pos_emb"):
            family.apply_rotary_pos_emb = rotated
        for key, kind in list(vars(family).items()):
            if not isinstance(kind, type) or kind.__module__ != family.__name__:
                continue
            if key.endswith("RMSNorm") and rms_norm:
                kind.forward = lambda self, x: fused.norm(  # type: ignore[attr-defined]
                    x, self.weight, getattr(self, "variance_epsilon", getattr(self, "eps", 1e-6))
                )
            elif key.endswith("MLP") and swiglu and geglu:
                kind.forward = _gated("geglu" if name.startswith("gemma") else "swiglu")  # type: ignore[attr-defined]
            elif key.endswith("ForCausalLM") and fused_linear_cross_entropy:
                _lossy(kind)

    return apply


FAMILIES = ("llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe", "gemma", "gemma2", "gemma3", "phi3", "olmo2",
            "glm4", "granite")  # fmt: skip


def install(norm: Any, layer_norm: Any) -> None:
    """The modules."""
    applied = {f"apply_liger_kernel_to_{name}": change(name, norm) for name in FAMILIES}
    faces.module("liger_kernel.ops", rms_norm=fused.norm)
    functions = {
        "liger_rms_norm": lambda x, w, eps=1e-6, *_, **__: fused.norm(x, w, eps), "liger_cross_entropy": CrossEntropy(),
        "liger_fused_linear_cross_entropy": lambda x, w, target, *_, **__: linear_loss(w, x, target),
        "liger_swiglu": lambda a, b: _gate("swiglu", a, b), "liger_geglu": lambda a, b: _gate("geglu", a, b),
        "liger_rope": rotated,
    }  # fmt: skip
    faces.module("liger_kernel.transformers.functional", **functions)
    faces.module(
        "liger_kernel.transformers", LigerRMSNorm=norm, LigerLayerNorm=layer_norm, LigerSwiGLUMLP=MLP,
        LigerFusedLinearCrossEntropyLoss=LinearLoss, LigerCrossEntropyLoss=CrossEntropy,
        liger_rotary_pos_emb=rotated, functional=sys.modules["liger_kernel.transformers.functional"], **applied,
    )  # fmt: skip
