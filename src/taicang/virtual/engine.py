"""TransformerEngine: its layers by their kernels, products in 8 bits where the program asks for them."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from taicang.virtual import fused
from taicang.virtual.faces import module
from taicang.virtual.kernels import DEVICE
from taicang.virtual.spec import NeedsDevice

EIGHT = torch.float8_e4m3fn
LOW: list[bool] = []
"""Whether products are of 8 bits, by nesting of the program's contexts."""
GATED = ("glu", "geglu", "reglu", "swiglu", "qgeglu", "sreglu")


class _Product(torch.autograd.Function):
    """A product and its gradients in 8 bits: every operand is quantised by a kernel, and kept as such."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        """Rows by the transposed weight."""
        low = _quantised(x), _quantised(weight)
        ctx.save_for_backward(*low)
        ctx.kinds = x.dtype, weight.dtype
        return _multiplied(low[0], low[1].t(), x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Of rows and weight."""
        (x, weight), grad = ctx.saved_tensors, _quantised(grads[0])
        first = _multiplied(grad, weight, ctx.kinds[0]) if ctx.needs_input_grad[0] else None
        return first, _multiplied(grad.t(), x, ctx.kinds[1]) if ctx.needs_input_grad[1] else None


def _quantised(source: Tensor) -> Tensor:
    made = torch.empty(source.shape, dtype=EIGHT, device=source.device)
    fused.KERNELS[0].recorder.launch("quantize", [source], [made], {})
    return made


def _multiplied(left: Tensor, right: Tensor, dtype: torch.dtype) -> Tensor:
    made = torch.empty(left.shape[0], right.shape[1], dtype=dtype, device=left.device)
    fused.KERNELS[0].recorder.launch("_scaled_mm", [left, right], [made], {})
    return made


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A linear layer, in 8 bits inside the program's contexts that ask for it."""
    low = LOW and LOW[-1] and x.device.type == DEVICE and not fused.KERNELS[0].recorder.real
    if not low:
        return torch.nn.functional.linear(x, weight, bias)
    out: Tensor = _Product.apply(x.reshape(-1, x.shape[-1]), weight)
    out = out.view(*x.shape[:-1], weight.shape[0])
    return out if bias is None else out + bias


@contextlib.contextmanager
def low(enabled: bool = True, **_: Any) -> Iterator[None]:
    """``fp8_autocast`` and ``autocast``."""
    LOW.append(enabled)
    try:
        yield
    finally:
        LOW.pop()


class Layer(torch.nn.Module):
    """What all layers take, and how their weights are made."""

    def __init__(self, *, params_dtype: Any = None, device: Any = None, tp_size: int = 1, return_bias: bool = False,
                 normalization: str = "LayerNorm", eps: float = 1e-5, **_: Any) -> None:  # fmt: skip
        super().__init__()
        if tp_size > 1:
            raise NeedsDevice("transformer_engine: layers that split themselves (tp_size) have no stand-in")
        self.made: dict[str, Any] = {"device": device or DEVICE, "dtype": params_dtype or torch.get_default_dtype()}
        self.return_bias, self.centre, self.eps = return_bias, normalization == "LayerNorm", eps

    def weights(self, name: str, *shape: int) -> None:
        """A parameter by this name."""
        self.register_parameter(name, torch.nn.Parameter(torch.empty(*shape, **self.made).normal_(std=0.02)))

    def norm(self, x: Tensor) -> Any:
        """By the layer's own weights."""
        return fused.norm(x, self.layer_norm_weight, self.eps, getattr(self, "layer_norm_bias", None),
                          centre=self.centre)  # fmt: skip

    def norms(self, width: int) -> None:
        """Weights of the norm."""
        self.weights("layer_norm_weight", width)
        if self.centre:
            self.weights("layer_norm_bias", width)


class Linear(Layer):
    """``te.Linear``."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True, **more: Any) -> None:
        super().__init__(**more)
        self.in_features, self.out_features = in_features, out_features
        self.weights("weight", out_features, in_features)
        self.register_parameter("bias", None)
        if bias:
            self.weights("bias", out_features)

    def forward(self, x: Tensor, **_: Any) -> Any:
        """The product; its bias apart where the program adds that itself."""
        if self.return_bias:
            return product(x, self.weight), self.bias
        return product(x, self.weight, self.bias)


class LayerNormLinear(Linear):
    """A norm before it."""

    def __init__(self, in_features: int, out_features: int, eps: float = 1e-5, bias: bool = True,
                 return_layernorm_output: bool = False, **more: Any) -> None:  # fmt: skip
        super().__init__(in_features, out_features, bias, eps=eps, **more)
        self.both = return_layernorm_output
        self.norms(in_features)

    def forward(self, x: Tensor, **_: Any) -> Any:
        """Norm and product, in two kernels."""
        inner = self.norm(x)
        return (super().forward(inner), inner) if self.both else super().forward(inner)


class LayerNormMLP(Layer):
    """Norm, product, activation, product."""

    def __init__(self, hidden_size: int, ffn_hidden_size: int, eps: float = 1e-5, bias: bool = True,
                 activation: str = "gelu", **more: Any) -> None:  # fmt: skip
        super().__init__(eps=eps, **more)
        self.activation, self.wide = activation, ffn_hidden_size * (1 + (activation in GATED))
        self.norms(hidden_size)
        self.weights("fc1_weight", self.wide, hidden_size)
        self.weights("fc2_weight", hidden_size, ffn_hidden_size)
        self.register_parameter("fc1_bias", None)
        self.register_parameter("fc2_bias", None)
        if bias:
            self.weights("fc1_bias", self.wide)
            self.weights("fc2_bias", hidden_size)

    def forward(self, x: Tensor, **_: Any) -> Any:
        """All four."""
        inner = product(self.norm(x), self.fc1_weight, self.fc1_bias)
        if self.activation in GATED:
            inner = fused.swiglu(inner)
        else:
            inner = fused.fused(self.activation, torch.nn.functional.gelu, inner)
        return product(inner, self.fc2_weight, self.fc2_bias)


class DotProductAttention(torch.nn.Module):
    """Flash attention by the layout that the program names."""

    def __init__(self, num_attention_heads: int, kv_channels: Any = None, qkv_format: str = "sbhd",
                 attn_mask_type: str = "causal", softmax_scale: float | None = None, **_: Any) -> None:  # fmt: skip
        super().__init__()
        self.layout, self.masked, self.scale = qkv_format, attn_mask_type, softmax_scale

    def forward(self, query: Tensor, key: Tensor, value: Tensor, *_: Any, qkv_format: str | None = None,
                attn_mask_type: str | None = None, cu_seqlens_q: Tensor | None = None, **__: Any) -> Any:  # fmt: skip
        """Heads side by side."""
        layout, causal = qkv_format or self.layout, "causal" in (attn_mask_type or self.masked)
        parts, pairs = [query, key, value], None
        if layout == "sbhd":
            parts = [t.transpose(0, 1) for t in parts]
        if layout == "thd" and cu_seqlens_q is not None:
            pairs = fused.pairs(cu_seqlens_q, causal)
        inside = "TND" if layout == "thd" else "BSND"
        out = fused.attend(*parts, causal=causal, scale=self.scale, layout=inside, pairs=pairs).flatten(-2)
        return out.transpose(0, 1) if layout == "sbhd" else out


class TransformerLayer(Layer):
    """Attention and feed-forward with their norms, as the library composes them."""

    def __init__(self, hidden_size: int, ffn_hidden_size: int, num_attention_heads: int,
                 num_gqa_groups: int | None = None, self_attn_mask_type: str = "causal",
                 attn_input_format: str = "sbhd", activation: str = "gelu", bias: bool = True,
                 layernorm_epsilon: float = 1e-5, **more: Any) -> None:  # fmt: skip
        more = {k: v for k, v in more.items() if k in ("params_dtype", "device", "normalization", "tp_size")}
        super().__init__(**more)
        self.width, groups = hidden_size // num_attention_heads, num_gqa_groups or num_attention_heads
        self.parts = [num_attention_heads, groups, groups]
        wide = sum(self.parts) * self.width
        self.qkv = LayerNormLinear(hidden_size, wide, layernorm_epsilon, bias, **more)
        self.core = DotProductAttention(num_attention_heads, self.width, attn_input_format, self_attn_mask_type)
        self.proj = Linear(hidden_size, hidden_size, bias, **more)
        self.mlp = LayerNormMLP(hidden_size, ffn_hidden_size, layernorm_epsilon, bias, activation, **more)

    def forward(self, hidden_states: Tensor, attention_mask: Any = None, rotary_pos_emb: Any = None, **_: Any) -> Any:
        """One layer."""
        query, key, value = self.qkv(hidden_states).unflatten(-1, (-1, self.width)).split(self.parts, dim=-2)
        if rotary_pos_emb is not None:
            query, key = (fused.rotate(t, rotary_pos_emb.cos(), rotary_pos_emb.sin()) for t in (query, key))
        hidden_states = hidden_states + self.proj(self.core(query, key, value))
        return hidden_states + self.mlp(hidden_states)


class GroupedLinear(Layer):
    """One product a group of rows."""

    def __init__(self, num_gemms: int, in_features: int, out_features: int, bias: bool = True, **more: Any) -> None:
        super().__init__(**more)
        for i in range(num_gemms):
            self.weights(f"weight{i}", out_features, in_features)
            if bias:
                self.weights(f"bias{i}", out_features)

    def forward(self, x: Tensor, m_splits: Any, **_: Any) -> Any:
        """Rows in the order of their groups."""
        parts = [
            product(part, getattr(self, f"weight{i}"), getattr(self, f"bias{i}", None))
            for i, part in enumerate(x.split([int(each) for each in m_splits]))
        ]
        return torch.cat(parts)


def install(norms: dict[str, Any], optimizers: dict[str, Any]) -> None:
    """The modules; ``norms`` and ``optimizers`` are those that other libraries have as well."""
    recipes = ("DelayedScaling", "Float8CurrentScaling", "MXFP8BlockScaling", "Float8BlockScaling", "NVFP4BlockScaling")
    formats = types.SimpleNamespace(E4M3="e4m3", E5M2="e5m2", HYBRID="hybrid")
    module("transformer_engine.common.recipe", Format=formats,
           **dict.fromkeys(recipes, types.SimpleNamespace))  # fmt: skip
    module(
        "transformer_engine.pytorch", Linear=Linear, LayerNormLinear=LayerNormLinear, LayerNormMLP=LayerNormMLP,
        DotProductAttention=DotProductAttention, TransformerLayer=TransformerLayer, GroupedLinear=GroupedLinear,
        fp8_autocast=low, autocast=low, fp8_model_init=lambda *_, **__: contextlib.nullcontext(),
        quantized_model_init=lambda *_, **__: contextlib.nullcontext(), is_fp8_available=lambda *_, **__: (True, ""),
        checkpoint=_checkpoint, **norms,
    )  # fmt: skip
    module("transformer_engine.pytorch.optimizers", **optimizers)
    module("transformer_engine.pytorch.attention", DotProductAttention=DotProductAttention)


def _checkpoint(function: Any, *args: Any, use_reentrant: bool = True, **kwargs: Any) -> Any:
    given = {k: v for k, v in kwargs.items() if k not in ("distribute_saved_activations", "get_rng_state_tracker",
                                                          "tp_group", "context_fn")}  # fmt: skip
    return torch.utils.checkpoint.checkpoint(function, *args, use_reentrant=False, **given)
