"""A model as its builders describe it: blocks of one attention kind and one feed-forward kind, counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupedQuery:
    """Softmax attention with ``kv_heads`` shared key-value heads (MHA when equal to ``heads``, MQA when 1)."""

    heads: int
    kv_heads: int
    head_dim: int
    window: int | None = None
    """Tokens that a query sees at most; None is the whole context."""
    bias: bool = False
    """Bias of the query, key and value projections."""
    output_gate: bool = False
    qk_norm: bool = False
    v_head_dim: int | None = None
    """Width of a value head where it differs from ``head_dim``."""
    out_bias: bool = False
    """Bias of the output projection."""
    sinks: bool = False
    """One learned sink logit per head joins the softmax (gpt-oss)."""
    chunked: bool = False
    """``window`` is a chunk that starts anew at its multiples (Llama 4), not a sliding window."""
    head_gate: bool = False
    """Each head's output is scaled by one number computed from the layer's input."""
    bare_norm: bool = False
    """The norm of queries and keys has no weights."""
    joint_norm: bool = False
    """Queries, and keys, are normed over all heads together: ranks that split the heads add up their squares."""
    values_are_keys: bool = False
    """The key projection makes the values too (Gemma 4): both are cached, one is computed."""
    q_lora: int | None = None
    """Width of a latent that queries are made from (Step-3)."""
    reused: bool = False
    """Reads the keys and values of an earlier layer: none are computed or cached here (Gemma 3n, Hunyuan-Large)."""
    in_width: int | None = None
    """Width of what queries, keys and values are made of, if it is not the hidden one (Zamba joins the embedding)."""
    extra: int = 0
    """Further parameters that no product reads: weights of wider norms, learned scalars."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Indexer:
    """DeepSeek sparse attention: a light indexer scores the context, attention reads the best ``topk`` tokens."""

    heads: int
    head_dim: int
    topk: int
    shared: bool = False
    """Reuses the selection of an earlier layer: no weights, no scores and no key cache of its own (GLM-5.2)."""
    pool: int = 1
    """Tokens that one key stands for (GLM-5.3-Flash)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Latent:
    """Multi-head latent attention: the cache holds one latent of ``kv_lora + rope_dim`` per token."""

    heads: int
    q_lora: int | None
    kv_lora: int
    nope_dim: int
    rope_dim: int
    v_dim: int
    indexer: Indexer | None = None
    bias: bool = False
    """Bias of the down-projections and the output."""
    gate_dim: int = 0
    """Numbers per head, computed from the layer's input, that scale its output."""
    sinks: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedLinear:
    """Linear attention with a fixed-size state, no cache that grows with the context.

    The gated delta rule (Qwen3-Next), with a decay per channel (Kimi-Linear), or a fixed decay (lightning attention).
    """

    k_heads: int
    v_heads: int
    k_dim: int
    v_dim: int
    conv_width: int
    """Tokens of the short convolution (0: none)."""
    decay: Literal["head", "channel", "fixed"] = "head"
    """The state decays by a number per head, per channel of its keys, or by constants that no weight makes."""
    rank: int = 0
    """Width of the low-rank projections of decay and output gate (0: full)."""
    state_dtype: str = ""
    """Format that the state is to be kept in ("": the engine's choice)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateSpace:
    """Mamba-2 mixer (arXiv 2405.21060): ``heads`` of ``head_dim`` with a state of ``state_dim`` each, no cache.

    ``dt_rank`` above 0 makes it the first version (arXiv 2312.00752), whose channels are the heads.
    """

    heads: int
    head_dim: int
    state_dim: int
    groups: int
    """Groups of heads that share the projections into and out of the state."""
    conv_width: int
    chunk: int = 128
    """Tokens of one chunk of the scan."""
    dt_rank: int = 0
    norm: bool = True
    """A gated norm stands before the output."""
    conv_bias: bool = True
    proj_bias: bool = False
    extra: int = 0
    state_dtype: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortConv:
    """A gated short convolution as the layer's mixer (LFM2): ``width`` channels look back ``conv_width`` tokens."""

    width: int
    conv_width: int
    bias: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Compressed:
    """Attention over a window and over a compressed context (DeepSeek-V4): one key, which is the value too, serves all
    heads, and behind the window one entry stands for ``ratio`` tokens."""

    heads: int
    head_dim: int
    q_lora: int
    o_groups: int
    """Groups of heads whose outputs are projected down apart."""
    o_lora: int
    window: int
    ratio: int = 0
    """Tokens of one entry (0: the layer sees its window alone)."""
    indexer: Indexer | None = None
    """Chooses the entries that a query reads; without it, a query reads all."""


Attention: TypeAlias = GroupedQuery | Latent | GatedLinear | StateSpace | ShortConv | Compressed


@dataclass(frozen=True, slots=True, kw_only=True)
class Dense:
    """A plain feed-forward; ``gated`` has a third matrix (SwiGLU). ``inter`` 0: the layer is its mixer alone."""

    inter: int
    gated: bool = True
    bias: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """``topk`` of ``experts`` routed experts of width ``inter`` plus a shared one of ``shared_inter``."""

    experts: int
    topk: int
    inter: int
    gated: bool = True
    shared_inter: int = 0
    shared_gate: bool = False
    groups: int = 1
    topk_groups: int = 1
    bias: bool = False
    shared_bias: bool = False
    latent: int = 0
    """Width that tokens are projected to before they travel to the experts, and back from after (0: none)."""


FeedForward: TypeAlias = Dense | Experts


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """``count`` equal layers."""

    attention: Attention
    ffn: FeedForward
    count: int
    norms: int = 2
    """Vectors of the hidden size in one layer: a norm's weights, its bias."""
    plain: tuple[str, ...] = ()
    """Tensor classes (attention, dense, experts) that the checkpoint leaves in bf16 in these layers alone."""
    extra: int = 0
    """Further parameters of a layer: biases of routers, scalars."""
    sets: int = 0
    """Sets of weights that the layers have between them (0: each its own): blocks that recur, loops."""
    streams: int = 1
    """Residual streams that hyper-connections mix before and after attention and feed-forward (arXiv 2409.19606)."""

    @property
    def own(self) -> Any:
        """Layers whose weights are stored: as many as there are sets, of a share of the layers at most its own."""
        least: Any = min if isinstance(self.count, int) else np.minimum
        return least(self.sets, self.count) if self.sets else self.count


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A decoder-only transformer. ``dtype`` is the format of the published weights; ``assumptions`` what deviates."""

    name: str
    hidden: int
    vocab: int
    blocks: tuple[Block, ...]
    tied_embeddings: bool
    dtype: str
    max_context: int
    mtp_layers: int = 0
    """Extra layers (of the last block's kind) trained to predict further tokens."""
    position_embeddings: int = 0
    """Rows of a learned position table (0 = rotary)."""
    outer_norms: int = 1
    """Vectors of the hidden size outside the layers: the last norm, norms of embeddings."""
    extra: int = 0
    """Further parameters outside the layers."""
    attention_dtype: str = ""
    """Format of the attention's weights where it is not ``dtype``; likewise of the other classes."""
    dense_dtype: str = ""
    """Of dense feed-forwards and shared experts."""
    experts_dtype: str = ""
    tower_ratio: float = 0.0
    """Size of the encoder of images in its own layers x width squared, over that of ViT-L/14; 0: none."""
    tower_tokens: int = 0
    """Tokens that the largest image becomes (0: not known)."""
    tower_live: int = 0
    """Numbers that are alive for each of these at once: two copies of its width a patch (assumed)."""
    tower_shared: int = 0
    """Those of its feed-forward, which ranks share out: two of its inner width a patch (assumed)."""
    kv_dtype: str = ""
    """Format of the cache that the checkpoint asks for ("": the engine's choice)."""
    assumptions: tuple[str, ...] = ()
    source: str = ""

    @property
    def formats(self) -> Mapping[str, str]:
        """The published format of each tensor class."""
        return {
            "attention": self.attention_dtype or self.dtype,
            "dense": self.dense_dtype or self.dtype,
            "experts": self.experts_dtype or self.dtype,
        }

    @property
    def layers(self) -> int:
        """Layers of the main model, without MTP heads."""
        return sum(block.count for block in self.blocks)


def routed(model: Model) -> Experts | None:
    """The model's layer of routed experts, if it has one."""
    return next((block.ffn for block in model.blocks if isinstance(block.ffn, Experts)), None)
