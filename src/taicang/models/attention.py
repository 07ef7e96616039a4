"""The attention kind of each layer, from the keys of a configuration."""

from __future__ import annotations

from taicang.errors import InvalidInput, NotModelled
from taicang.models.families import Family
from taicang.models.keys import Keys
from taicang.models.types import Attention, GatedLinear, GroupedQuery, Indexer, Latent

_KINDS = {
    "full_attention": "full",
    "sliding_attention": "window",
    "chunked_attention": "chunk",
    "linear_attention": "linear",
    "attention": "full",
}


def attentions(keys: Keys, family: Family, layers: int, hidden: int) -> list[Attention]:
    """One attention kind per layer. Raises ``NotModelled`` and ``InvalidInput`` naming the key."""
    if family.latent:
        return _latent(keys, layers)
    heads = keys.number("num_attention_heads", "n_head")
    head_dim = keys.maybe("head_dim", "attention_head_dim", "kv_channels")
    if head_dim is None:
        if hidden % heads:
            raise InvalidInput(f"{heads} do not divide hidden_size {hidden}", where=keys.at("num_attention_heads"))
        head_dim = hidden // heads
    bias = keys.flag("attention_bias", "qkv_bias", "use_qkv_bias", "bias", default=family.bias)
    everywhere = keys.flag("use_bias", default=False)
    qk_norm = keys.flag("use_qk_norm", default=family.qk_norm)
    sinks = keys.flag("add_full_attention_sink_bias", default=family.sinks)

    def grouped(window: int | None, chunked: bool = False) -> GroupedQuery:
        kv_heads = _kv_heads(keys, heads)
        if heads % kv_heads:
            raise InvalidInput(f"{kv_heads} do not divide {heads} heads", where=keys.at("num_key_value_heads"))
        v_dim = keys.maybe("v_head_dim")
        return GroupedQuery(
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            window=window,
            chunked=chunked,
            bias=bias or everywhere,
            out_bias=everywhere or (bias if family.out_bias is None else family.out_bias),
            qk_norm=qk_norm,
            output_gate=family.output_gate,
            v_head_dim=None if v_dim == head_dim else v_dim,
            sinks=sinks,
        )

    keys.flag("attn_output_gate", default=True)
    made: dict[str, Attention] = {}
    for kind in (order := _layout(keys, family, layers)):
        if kind in made:
            continue
        if kind == "full":
            made[kind] = grouped(None)
        elif kind == "window":
            made[kind] = _second(keys) or grouped(keys.number("sliding_window", "sliding_window_size"))
        elif kind == "chunk":
            made[kind] = grouped(keys.number("attention_chunk_size"), chunked=True)
        else:
            made[kind] = _linear(keys)
    keys.ignore("sliding_window", "attention_chunk_size", "max_window_layers")
    return [made[kind] for kind in order]


def _kv_heads(keys: Keys, heads: int) -> int:
    """Key-value heads; Falcon says it with two flags of its own."""
    multi_query = keys.flag("multi_query", default=False)
    new = keys.flag("new_decoder_architecture", default=False)
    stated = keys.maybe("num_key_value_heads", "num_kv_heads", "n_head_kv")
    if multi_query and not new:
        return 1
    return stated if stated is not None else heads


def _layout(keys: Keys, family: Family, layers: int) -> list[str]:
    """The kind of each layer: "full", "window", "chunk" or "linear"."""
    types = keys.per_layer("layer_types", layers)
    pattern = keys.maybe("sliding_window_pattern", "_sliding_window_pattern")
    interval = keys.number("full_attention_interval", default=4)
    window = keys.maybe("sliding_window", "sliding_window_size", low=0) or None
    hybrid = keys.per_layer("hybrid_layer_pattern", layers)
    ropes = keys.per_layer("no_rope_layers", layers) if keys.get("no_rope_layers") else None
    step = keys.number("no_rope_layer_interval", default=4)
    if (lone := keys.per_layer("attn_type_list", layers)) and any(kind != 1 for kind in lone):
        raise NotModelled(f"{keys.at('attn_type_list')}: lightning attention is not modelled")
    switched = keys.flag("use_sliding_window", default=family.layout != "switch")
    first = keys.number("max_window_layers", default=0, low=0) if family.layout == "switch" else 0
    if window and window >= keys.number("max_position_embeddings", "n_positions", default=2048):
        window = None  # wider than any context
    if types is not None:
        unknown = next((t for t in types if t not in _KINDS), None)
        if unknown is not None:
            raise NotModelled(f"{keys.at('layer_types')}: {unknown!r} layers are not modelled")
        return [_KINDS[t] for t in types]
    if hybrid is not None:
        return ["window" if flag else "full" for flag in hybrid]
    if family.layout == "hybrid":
        return ["full" if (i + 1) % interval == 0 else "linear" for i in range(layers)]
    if family.layout == "fourth_chunked":
        rope = ropes if ropes is not None else [(i + 1) % step != 0 for i in range(layers)]
        return ["chunk" if flag else "full" for flag in rope]
    if window is None or not switched or family.layout == "full":
        if window is not None and family.layout == "full":
            keys.refuse("a sliding window in a family without one", "sliding_window", "the window is left out")
        return ["full"] * layers
    if pattern is not None or family.layout == "sixth":
        return ["full" if (i + 1) % (pattern or 6) == 0 else "window" for i in range(layers)]
    if family.layout == "alternate":
        return ["window" if i % 2 == 0 else "full" for i in range(layers)]
    return ["window" if i >= first else "full" for i in range(layers)]


def _second(keys: Keys) -> GroupedQuery | None:
    """The windowed layers of MiMo, which have heads of their own (``swa_*``)."""
    heads = keys.maybe("swa_num_attention_heads")
    if heads is None:
        return None
    head_dim = keys.number("swa_head_dim")
    v_dim = keys.maybe("swa_v_head_dim")
    return GroupedQuery(
        heads=heads,
        kv_heads=keys.number("swa_num_key_value_heads"),
        head_dim=head_dim,
        v_head_dim=None if v_dim == head_dim else v_dim,
        window=keys.number("sliding_window", "sliding_window_size"),
        sinks=keys.flag("add_swa_attention_sink_bias", default=False),
    )


def _linear(keys: Keys) -> GatedLinear:
    return GatedLinear(
        k_heads=keys.number("linear_num_key_heads"),
        v_heads=keys.number("linear_num_value_heads"),
        k_dim=keys.number("linear_key_head_dim"),
        v_dim=keys.number("linear_value_head_dim"),
        conv_width=keys.number("linear_conv_kernel_dim"),
    )


def _latent(keys: Keys, layers: int) -> list[Attention]:
    """MLA layers, with DeepSeek's sparse selection where ``index_topk`` stands (DeepSeek-V3.2, GLM-5)."""
    keys.ignore("num_key_value_heads", "head_dim", "qk_head_dim")
    if keys.flag("attention_bias", default=False):
        keys.refuse("biases in latent attention", "attention_bias", "left out")
    shares = keys.per_layer("indexer_types", layers)
    keys.ignore("index_topk_freq", "index_skip_topk_offset", "index_topk_pattern")
    if shares is None and keys.data.get("index_topk_freq") not in (None, 1):
        keys.refuse("shared sparse selection without its layers", "index_topk_freq", "each layer selects for itself")
    topk = keys.maybe("index_topk")

    def latent(shared: bool) -> Latent:
        indexer = topk and Indexer(
            heads=keys.number("index_n_heads"), head_dim=keys.number("index_head_dim"), topk=topk, shared=shared
        )
        return Latent(
            heads=keys.number("num_attention_heads"),
            q_lora=keys.maybe("q_lora_rank"),
            kv_lora=keys.number("kv_lora_rank"),
            nope_dim=keys.number("qk_nope_head_dim"),
            rope_dim=keys.number("qk_rope_head_dim"),
            v_dim=keys.number("v_head_dim"),
            indexer=indexer or None,
        )

    made = {False: latent(False), True: latent(True)}
    return [made[kind == "shared"] for kind in shares] if shares else [made[False]] * layers
