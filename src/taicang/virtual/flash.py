"""``flash_attn`` and ``xformers``: their attention by layout, lengths and window, and what programs take beside it."""

from __future__ import annotations

import contextlib
import importlib
import types
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad, silu

from taicang.virtual import fused
from taicang.virtual.faces import module


def func(q: Tensor, k: Tensor, v: Tensor, dropout_p: float = 0.0, softmax_scale: Any = None, causal: bool = False,
         window_size: Any = (-1, -1), **_: Any) -> Tensor:  # fmt: skip
    """[batch, tokens, heads, width]."""
    pairs = None
    if window_size[0] >= 0 or window_size[1] > 0:
        pairs = q.shape[0] * fused.seen([q.shape[1]], causal, window_size)
    return fused.attend(q, k, v, causal=causal, scale=softmax_scale, layout="BSND", pairs=pairs)


def varlen(q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Any = None, max_seqlen_q: int = 0,
           max_seqlen_k: int = 0, dropout_p: float = 0.0, softmax_scale: Any = None, causal: bool = False,
           window_size: Any = (-1, -1), **_: Any) -> Tensor:  # fmt: skip
    """Sequences behind each other."""
    pairs = fused.pairs(cu_seqlens_q, causal, window_size)
    return fused.attend(q, k, v, causal=causal, scale=softmax_scale, layout="TND", pairs=pairs)


def varlen_qkv(qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int, *args: Any, **kwargs: Any) -> Tensor:
    """Packed."""
    q, k, v = qkv.unbind(1)
    return varlen(q, k, v, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, *args, **kwargs)


def varlen_kv(q: Tensor, kv: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Keys and values packed."""
    return varlen(q, *kv.unbind(1), *args, **kwargs)


def cached(q: Tensor, k_cache: Tensor, v_cache: Tensor, k: Any = None, v: Any = None, *_: Any,
           cache_seqlens: Any = None, softmax_scale: Any = None, causal: bool = False, block_table: Any = None,
           **__: Any) -> Tensor:  # fmt: skip
    """Over a cache, as long as its sequences are; new keys and values are written into it."""
    device = fused.KERNELS[0].device
    full = k_cache.shape[1] if block_table is None else k_cache.shape[1] * block_table.shape[1]
    length: float = q.shape[0] * full
    if isinstance(cache_seqlens, int):
        length = q.shape[0] * (cache_seqlens + (0 if k is None else k.shape[1]))
    elif cache_seqlens is not None and device.known(cache_seqlens.untyped_storage().data_ptr()):
        length = float(cache_seqlens.sum().item()) + (0 if k is None else k.shape[0] * k.shape[1])
    if k is not None:
        k_cache[:, : k.shape[1]].copy_(k)
        v_cache[:, : v.shape[1]].copy_(v)
    keys, values = (
        t if block_table is None else t.new_empty(q.shape[0], 1, *t.shape[2:]).expand(-1, full, -1, -1)
        for t in (k_cache, v_cache)
    )
    return fused.attend(q, keys, values, causal=False, scale=softmax_scale, layout="BSND", pairs=length * q.shape[1])


def first_axis(source: Tensor, indices: Tensor) -> Tensor:
    """Rows."""
    return source[indices]


def unpadded(source: Tensor, attention_mask: Tensor, unused_mask: Any = None) -> tuple[Any, ...]:
    """Rows that a mask leaves, where they were, ends of the sequences, the longest one, how many are used."""
    lengths = attention_mask.sum(-1, dtype=torch.int32)
    places = torch.nonzero(attention_mask.flatten()).flatten()
    ends = pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))
    return source.flatten(0, 1)[places], places, ends, int(lengths.max().item()) or source.shape[1], lengths


def padded(source: Tensor, indices: Tensor, batch: int, seqlen: int) -> Tensor:
    """And back."""
    out = source.new_zeros(batch * seqlen, *source.shape[1:])
    return out.index_copy(0, indices, source).unflatten(0, (batch, seqlen))


def rotary(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False, *_: Any, **__: Any) -> Any:
    """Rotary embedding of [batch, tokens, heads, width]; ``cos`` has half of the width."""
    cos, sin = (torch.cat((t, t), -1)[: x.shape[1], None].to(x.dtype) for t in (cos, sin))
    return fused.rotate(x, cos, sin, interleaved=interleaved)


class CrossEntropy(torch.nn.Module):
    """A loss in one kernel."""

    def __init__(self, ignore_index: int = -100, reduction: str = "mean", label_smoothing: float = 0.0,
                 **_: Any) -> None:  # fmt: skip
        super().__init__()
        self.given: dict[str, Any] = {
            "ignore_index": ignore_index,
            "reduction": reduction,
            "label_smoothing": label_smoothing,
        }

    def forward(self, logits: Tensor, labels: Tensor) -> Any:
        """The loss."""
        return fused.fused("cross_entropy", torch.nn.functional.cross_entropy, logits, labels, **self.given)


def install(norm: Any, layer_norm: Any) -> None:
    """``flash_attn``."""
    names: dict[str, Any] = {
        "flash_attn_func": func, "flash_attn_varlen_func": varlen, "flash_attn_varlen_qkvpacked_func": varlen_qkv,
        "flash_attn_varlen_kvpacked_func": varlen_kv, "flash_attn_with_kvcache": cached,
        "flash_attn_qkvpacked_func": lambda qkv, *args, **more: func(*qkv.unbind(2), *args, **more),
        "flash_attn_kvpacked_func": lambda q, kv, *args, **more: func(q, *kv.unbind(2), *args, **more),
    }  # fmt: skip
    module("flash_attn", __version__="2.8.3", **names)
    module("flash_attn.flash_attn_interface", **names)
    given: dict[str, Any] = {"index_first_axis": first_axis, "unpad_input": unpadded, "pad_input": padded}
    with contextlib.suppress(ImportError):
        given["rearrange"] = importlib.import_module("einops").rearrange
    module("flash_attn.bert_padding", **given)
    module("flash_attn.layers.rotary", apply_rotary_emb=rotary, apply_rotary_emb_func=rotary)
    module("flash_attn.losses.cross_entropy", CrossEntropyLoss=CrossEntropy)
    one = {"RMSNorm": norm, "rms_norm_fn": lambda x, w, b=None, *_, eps=1e-6, **__: fused.norm(x, w, eps, b)}
    module("flash_attn.ops.triton.layer_norm", **one)
    module("flash_attn.ops.rms_norm", RMSNorm=norm, rms_norm=fused.norm)
    module("flash_attn.ops.layer_norm", LayerNorm=layer_norm)


class _Bias:
    """A mask that is known by its kind: of one sequence, or of several behind each other."""

    causal = True
    lengths: Any = None

    @classmethod
    def from_seqlens(cls, q_seqlen: Any, kv_seqlen: Any = None, **_: Any) -> Any:
        """Of these lengths."""
        made = cls()
        made.lengths = list(q_seqlen)
        return made

    def make_causal(self) -> Any:
        """The same, where none sees what comes later."""
        made = self.from_seqlens(self.lengths)
        made.causal = True
        return made


class _Full(_Bias):
    causal = False


def memory_efficient(query: Tensor, key: Tensor, value: Tensor, attn_bias: Any = None, p: float = 0.0,
                     scale: Any = None, **_: Any) -> Tensor:  # fmt: skip
    """``xformers.ops.memory_efficient_attention``: [batch, tokens, heads, width]."""
    kind = attn_bias() if isinstance(attn_bias, type) else attn_bias
    causal = isinstance(kind, _Bias) and kind.causal
    lengths = kind.lengths if isinstance(kind, _Bias) else None
    pairs = fused.seen(lengths, causal) if lengths else None
    mask = attn_bias if isinstance(attn_bias, Tensor) else None
    return fused.attend(query, key, value, causal=causal, scale=scale, layout="BSND", mask=mask, pairs=pairs)


class SwiGLU(torch.nn.Module):
    """``xformers.ops.SwiGLU``: two products in one, the gate, one product."""

    def __init__(self, in_features: int, hidden_features: int, out_features: int | None = None, bias: bool = True,
                 **_: Any) -> None:  # fmt: skip
        super().__init__()
        self.w12 = torch.nn.Linear(in_features, 2 * hidden_features, bias)
        self.w3 = torch.nn.Linear(hidden_features, out_features or in_features, bias)

    def forward(self, x: Tensor) -> Tensor:
        """The layer."""
        out: Tensor = self.w3(fused.fused("swiglu", _gated, self.w12(x)))
        return out


def _gated(x: Tensor) -> Tensor:
    gate, up = x.chunk(2, dim=-1)
    return silu(gate) * up


def xformers() -> None:
    """``xformers.ops``."""
    causal, full = type("LowerTriangularMask", (_Bias,), {}), type("BlockDiagonalMask", (_Full,), {})
    blocks = type("BlockDiagonalCausalMask", (_Bias,), {})
    biases = {"LowerTriangularMask": causal, "BlockDiagonalMask": full, "BlockDiagonalCausalMask": blocks}
    whole = types.SimpleNamespace(attn_bias=types.SimpleNamespace(**biases, AttentionBias=_Bias))
    module("xformers", __version__="0.0.35")
    module("xformers.ops", memory_efficient_attention=memory_efficient, SwiGLU=SwiGLU, fmha=whole, **biases)
    module("xformers.ops.fmha.attn_bias", AttentionBias=_Bias, **biases)
