"""Parameters, cache bytes and arithmetic of a model, counted from its blocks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from taicang.formats import number_format
from taicang.models.types import (
    Attention,
    Block,
    Compressed,
    Dense,
    FeedForward,
    GatedLinear,
    GroupedQuery,
    Latent,
    Model,
    ShortConv,
    StateSpace,
)
from taicang.units import Count, Num

_STATE_BYTES = 4.0  # recurrent states are kept in fp32, where nobody says
_CONV_BYTES = 2.0  # the last inputs of a short convolution wait in 16 bits, whatever the cache is in
_SCAN_FLOP = 5.0  # per state element: decay 1, update by the input 2, read 2
_DELTA_FLOP = 7.0  # per state element: decay 1, read by the key 2, rank-one update 2, read by the query 2
_INDEX_FORMAT = "fp8_block"  # keys of the sparse indexer are cached in fp8 with a scale per 128, whatever the rest is


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """Parameters by tensor class. ``head`` is 0 where the embedding is reused; ``mtp`` is not part of the total."""

    attention: int
    dense: int
    experts: int
    """All routed experts."""
    experts_active: int
    """Of them, those that one token goes through."""
    shared: int
    router: int
    norm: int
    embedding: int
    head: int
    mtp: int

    @property
    def total(self) -> int:
        """All parameters of the main model (without MTP layers, with embedding and head)."""
        fixed = self.attention + self.dense + self.shared + self.router + self.norm + self.embedding + self.head
        return fixed + self.experts

    @property
    def active(self) -> int:
        """Parameters that one token goes through, with embedding and head."""
        return self.total - self.experts + self.experts_active


def parameters(model: Model) -> Parameters:
    """Count ``model``'s parameters by tensor class."""
    layers = [(block, _ffn(block.ffn, model.hidden)) for block in model.blocks]

    def over(name: str) -> int:
        return sum(block.own * ffn[name] for block, ffn in layers)

    return Parameters(
        attention=sum(block.own * attention_parameters(block.attention, model.hidden) for block in model.blocks),
        dense=over("dense"),
        experts=over("experts"),
        experts_active=over("active"),
        shared=over("shared"),
        router=over("router"),
        norm=sum(
            block.own * (block.norms * model.hidden + _mixing(block, model.hidden)) + block.count * block.extra
            for block in model.blocks
        )
        + model.outer_norms * model.hidden
        + model.extra,
        embedding=(model.vocab + model.position_embeddings) * model.hidden,
        head=0 if model.tied_embeddings else model.vocab * model.hidden,
        mtp=model.mtp_layers * _mtp(model.blocks[-1], model.hidden),
    )


def attention_parameters(kind: Attention, hidden: int) -> int:
    """Parameters of one attention layer: projections, biases, inner norms, convolution, indexer."""
    if isinstance(kind, GroupedQuery):
        v_dim = kind.v_head_dim or kind.head_dim
        q, k, v = (
            kind.heads * kind.head_dim * (1 + kind.output_gate),
            kind.kv_heads * kind.head_dim,
            kind.kv_heads * v_dim,
        )
        k, v = 0 if kind.reused else k, 0 if kind.values_are_keys or kind.reused else v
        wide = kind.in_width or hidden
        query = wide * q if kind.q_lora is None else kind.q_lora * (wide + 1 + q)
        matrices = query + wide * (k + v + kind.head_gate * kind.heads) + kind.heads * v_dim * hidden
        normed = (kind.qk_norm - kind.bare_norm) * (2 - kind.reused) * kind.head_dim
        extras = kind.bias * (q + k + v) + kind.out_bias * hidden + normed
        return matrices + extras + kind.sinks * kind.heads + kind.extra
    if isinstance(kind, Latent):
        q_dim = kind.heads * (kind.nope_dim + kind.rope_dim)
        q = hidden * q_dim if kind.q_lora is None else kind.q_lora * (hidden + 1 + q_dim)
        kv = hidden * (kind.kv_lora + kind.rope_dim) + kind.kv_lora * (1 + kind.heads * (kind.nope_dim + kind.v_dim))
        gates = kind.heads * (hidden * kind.gate_dim + kind.sinks)
        biases = kind.bias * ((kind.q_lora or 0) + kind.kv_lora + kind.rope_dim + hidden)
        return q + kv + kind.heads * kind.v_dim * hidden + _indexer(kind, hidden) + gates + biases
    if isinstance(kind, Compressed):
        return _compressed(kind, hidden)
    if isinstance(kind, ShortConv):
        return kind.width * (4 * hidden + kind.conv_width) + kind.bias * (4 * kind.width + hidden)
    return _state_space(kind, hidden) if isinstance(kind, StateSpace) else _linear(kind, hidden)


def mixes(streams: int) -> int:
    """Numbers per token by which hyper-connections read one stream, write back and mix all (1 stream: none)."""
    return streams * streams + 2 * streams if streams > 1 else 0


def _mixing(block: Block, hidden: int) -> int:
    made = mixes(block.streams)
    return 2 * (made * (block.streams * hidden + 1) + 3) if made else 0


def _compressed(kind: Compressed, hidden: int) -> int:
    width = kind.head_dim
    own = kind.q_lora * (hidden + 1 + kind.heads * width) + (hidden + 1) * width + kind.heads
    own = own + kind.o_lora * (kind.heads * width + kind.o_groups * hidden)
    index = kind.indexer
    if kind.ratio:
        wide = 2 if index else 1  # entries that are chosen overlap: each is made from two neighbours
        own = own + wide * width * (kind.ratio + 2 * hidden) + width
    if index:
        own = own + 2 * index.head_dim * (kind.ratio + 2 * hidden) + index.head_dim
        own = own + index.heads * (kind.q_lora * index.head_dim + hidden)
    return own


def _state_space(kind: StateSpace, hidden: int) -> int:
    inner, mixed = kind.heads * kind.head_dim, kind.heads * kind.head_dim + 2 * kind.groups * kind.state_dim
    biases = kind.conv_bias * mixed + kind.proj_bias * hidden + kind.extra
    if np.any(kind.dt_rank):  # channel by channel: only the values pass the convolution, steps have a rank
        inputs = 2 * inner * hidden + inner * (kind.dt_rank + 2 * kind.state_dim) + (kind.dt_rank + 1) * inner
        biases = kind.conv_bias * inner + kind.proj_bias * (hidden + 2 * inner) + kind.extra
        return inputs + inner * (kind.conv_width + kind.state_dim + 1) + biases + inner * hidden
    inputs = hidden * (inner + mixed + kind.heads)  # gate, what the convolution mixes, step
    biases = biases + kind.proj_bias * (inner + mixed + kind.heads)
    return inputs + mixed * kind.conv_width + 3 * kind.heads + kind.norm * inner + inner * hidden + biases


def _linear(kind: GatedLinear, hidden: int) -> int:
    k_dim, v_dim = kind.k_heads * kind.k_dim, kind.v_heads * kind.v_dim
    own = hidden * (2 * k_dim + v_dim) + (2 * k_dim + v_dim) * kind.conv_width + v_dim * hidden  # q, k, v, output

    def made(width: int) -> int:
        return kind.rank * (hidden + width) if kind.rank else hidden * width

    if kind.decay == "fixed":
        return own + made(v_dim) + v_dim
    write = hidden * kind.v_heads
    if kind.decay == "channel":
        return own + write + made(v_dim) + made(k_dim) + kind.v_heads + k_dim + kind.v_dim
    return own + write + made(v_dim) + hidden * kind.v_heads + 2 * kind.v_heads + kind.v_dim


def _indexer(kind: Latent, hidden: int) -> int:
    index = kind.indexer
    if index is None or index.shared:
        return 0
    queries = (kind.q_lora or hidden) * index.heads * index.head_dim
    pooled = index.head_dim * (index.pool + hidden) if index.pool > 1 else 0
    return queries + hidden * (index.head_dim + index.heads) + 2 * index.head_dim + pooled


def _ffn(kind: FeedForward, hidden: int) -> dict[str, int]:
    matrices = 3 if kind.gated else 2

    def width(inter: int, outer: int = hidden, bias: bool = kind.bias) -> int:
        return matrices * outer * inter + bias * ((matrices - 1) * inter + outer)

    if isinstance(kind, Dense):
        return {"dense": width(kind.inter), "experts": 0, "active": 0, "shared": 0, "router": 0}
    return {
        "dense": 0,
        "experts": kind.experts * width(kind.inter, kind.latent or hidden),
        "active": kind.topk * width(kind.inter, kind.latent or hidden),
        "shared": (width(kind.shared_inter, bias=kind.shared_bias) if np.any(kind.shared_inter) else 0)
        + kind.shared_gate * hidden
        + 2 * kind.latent * hidden,
        "router": hidden * kind.experts + kind.bias * kind.experts,
    }


def _mtp(block: Block, hidden: int) -> int:
    """One MTP layer: a layer of the last kind, the projection of [hidden, embedding] and three more norms."""
    ffn = _ffn(block.ffn, hidden)
    layer = attention_parameters(block.attention, hidden) + sum(ffn.values()) - ffn["active"]
    return layer + (block.norms + 3) * hidden + 2 * hidden * hidden


def kv_cache_bytes(model: Model, context: Count, kv_dtype: str = "bf16") -> Num:
    """Cache bytes of one sequence of ``context`` tokens over all ranks, without replicas.

    Windows and chunks cap what a layer holds; linear layers hold a state of fixed size from the first token on.
    """
    total: Num = 0.0
    for block in model.blocks:
        total = total + block.count * _layer_cache(block.attention, context, number_format(kv_dtype).activation_bytes)
    return total


def kv_bytes_per_token(model: Model, kv_dtype: str = "bf16") -> float:
    """Bytes that the first tokens add to the cache, while no window is full; linear layers add none."""
    element = number_format(kv_dtype).activation_bytes
    kinds = [(block.count, block.attention) for block in model.blocks]
    return sum(count * token_bytes(kind, element) for count, kind in kinds)


def token_bytes(kind: Attention, element_bytes: float) -> float:
    """What a layer keeps of a token, in numbers of ``element_bytes``, while no window is full."""
    if isinstance(kind, GroupedQuery):
        return (
            0.0 if kind.reused else kind.kv_heads * (kind.head_dim + (kind.v_head_dim or kind.head_dim)) * element_bytes
        )
    if isinstance(kind, Latent):
        own = kind.indexer is not None and not kind.indexer.shared
        index = kind.indexer.head_dim * number_format(_INDEX_FORMAT).activation_bytes if own and kind.indexer else 0.0
        index = index / kind.indexer.pool if kind.indexer else 0.0
        return (kind.kv_lora + kind.rope_dim) * element_bytes + index
    if isinstance(kind, Compressed) and kind.ratio:
        keys = kind.indexer.head_dim * number_format(_INDEX_FORMAT).activation_bytes if kind.indexer else 0.0
        return (kind.head_dim * element_bytes + keys) / kind.ratio
    return 0.0


def state_bytes(kind: Attention, element_bytes: float = _STATE_BYTES, drafts: Count = 0) -> Num:
    """What one layer keeps of a sequence however long: its state, in ``element_bytes`` where the model names no format,
    and the last inputs of its convolution, by one more for each drafted token."""
    if isinstance(kind, ShortConv):
        return kind.width * (kind.conv_width - 1 + drafts) * _CONV_BYTES
    if not isinstance(kind, GatedLinear | StateSpace):
        return 0.0
    if isinstance(kind, GatedLinear):
        width = 2 * kind.k_heads * kind.k_dim + kind.v_heads * kind.v_dim
        held = kind.v_heads * kind.k_dim * kind.v_dim
    else:
        width = kind.heads * kind.head_dim + 2 * kind.groups * kind.state_dim
        held = kind.heads * kind.head_dim * kind.state_dim
    element = number_format(kind.state_dtype).activation_bytes if kind.state_dtype else element_bytes
    inputs = width * (kind.conv_width - 1 + drafts) * _CONV_BYTES if kind.conv_width else 0.0
    return held * element + inputs


def _layer_cache(kind: Attention, context: Count, element_bytes: float) -> Num:
    if isinstance(kind, GatedLinear | StateSpace | ShortConv):
        return state_bytes(kind)
    if isinstance(kind, Compressed):
        near = np.minimum(context, kind.window) * kind.head_dim * element_bytes
        return near + token_bytes(kind, element_bytes) * context
    window = kind.window if isinstance(kind, GroupedQuery) else None
    held = context if window is None else np.minimum(context, window)
    return token_bytes(kind, element_bytes) * held


def decode_flop(model: Model, context: Count) -> Num:
    """FLOP of generating one token after ``context`` cached ones: two per active weight, plus the attention core.

    Latent attention is counted in its absorbed form (DeepSeek-V2, arXiv:2405.04434, section 2.1).
    """
    counted = parameters(model)
    total: Num = 2.0 * (counted.active - counted.embedding - counted.norm)
    total = total + (2.0 * model.vocab * model.hidden if model.tied_embeddings else 0.0) + 2.0 * _again(model)
    for block in model.blocks:
        total = total + block.count * _core_flop(block.attention, 1, context, absorbed=True)
    return total


def prefill_flop(model: Model, tokens: Count, cached: Count = 0) -> Num:
    """FLOP of ``tokens`` new tokens of one prompt after ``cached`` ones, with logits of the last token only."""
    counted = parameters(model)
    total: Num = 2.0 * (counted.active - counted.embedding - counted.norm - counted.head + _again(model)) * tokens
    total = total + 2.0 * model.vocab * model.hidden
    for block in model.blocks:
        total = total + block.count * _core_flop(block.attention, tokens, cached, absorbed=False)
    return total


def _again(model: Model) -> int:
    """Weights that a token goes through beyond the first time: sets that several layers share."""
    total = 0
    for block in model.blocks:
        ffn = _ffn(block.ffn, model.hidden)
        each = attention_parameters(block.attention, model.hidden) + sum(ffn.values()) - ffn["experts"]
        total += (block.count - block.own) * each
    return total


def _pairs(tokens: Count, cached: Count, limit: int | None) -> Num:
    """Query-key pairs of ``tokens`` causal queries of which each sees at most ``limit`` tokens."""
    if limit is None:
        return tokens * cached + tokens * (tokens + 1.0) / 2.0
    free = np.clip(limit - cached, 0.0, tokens)  # queries that see everything before them
    return free * cached + free * (free + 1.0) / 2.0 + (tokens - free) * limit


def _core_flop(kind: Attention, tokens: Count, cached: Count, *, absorbed: bool) -> Num:
    """FLOP of scores and weighted sums of one layer (of the recurrence for linear attention)."""
    if isinstance(kind, GatedLinear):
        return _DELTA_FLOP * kind.v_heads * kind.k_dim * kind.v_dim * tokens
    if isinstance(kind, StateSpace):
        return _SCAN_FLOP * kind.heads * kind.head_dim * kind.state_dim * tokens
    if isinstance(kind, Compressed):
        each, index = 4.0 * kind.heads * kind.head_dim, kind.indexer
        total = each * _pairs(tokens, cached, kind.window)
        if kind.ratio:
            total = total + each * _pairs(tokens, cached, index.topk * kind.ratio if index else None) / kind.ratio
        if index:
            total = total + 2.0 * index.heads * index.head_dim * _pairs(tokens, cached, None) / kind.ratio
        return total
    if isinstance(kind, ShortConv):
        return 2.0 * (kind.conv_width + 1) * kind.width * tokens
    if isinstance(kind, GroupedQuery):
        width = kind.head_dim + (kind.v_head_dim or kind.head_dim)
        return 2.0 * kind.heads * width * _pairs(tokens, cached, kind.window)
    index = kind.indexer
    width = kind.nope_dim + kind.rope_dim + kind.v_dim
    if absorbed or index is not None:  # the sparse kernel reads the latent itself in both phases
        width = 2 * kind.kv_lora + kind.rope_dim
    core = 2.0 * kind.heads * width * _pairs(tokens, cached, index.topk if index else None)
    if index is None or index.shared:
        return core
    return core + 2.0 * index.heads * index.head_dim * _pairs(tokens, cached, None) / index.pool
