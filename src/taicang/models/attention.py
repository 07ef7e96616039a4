"""The mixer of each layer, from the keys of a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from taicang.errors import InvalidInput, NotModelled
from taicang.models.families import Family
from taicang.models.keys import Keys, sum_of
from taicang.models.recurrent import HEADS, linear, state_space
from taicang.models.types import Attention, Compressed, GroupedQuery, Indexer, Latent, ShortConv

_KINDS = {
    "full_attention": "full",
    "indexed_attention": "full",
    "global_attention": "full",
    "global": "full",
    "attention": "full",
    "sliding_attention": "window",
    "local_attention": "window",
    "local": "window",
    "chunked_attention": "chunk",
    "linear_attention": "linear",
    "mamba": "mamba",
    "compressed_sparse_attention": "sparse",
    "heavily_compressed_attention": "heavy",
    "conv": "conv",
    "convolution": "conv",
}
_KV_HEADS = (
    "num_key_value_heads",
    "num_kv_heads",
    "n_head_kv",
    "kv_n_heads",
    "multi_query_group_num",
    "num_attention_groups",
)
_WINDOW = ("sliding_window", "sliding_window_size", "attention_window_size", "local_attention", "window_size")


def attentions(keys: Keys, family: Family, layers: int, hidden: int) -> list[Attention]:
    """One mixer per layer. Raises ``NotModelled`` and ``InvalidInput`` naming the key."""
    made: dict[Any, Attention] = {}
    found = []
    order = _layout(keys, family, layers)
    keys.ignore(*_WINDOW, *HEADS, *_KV_HEADS, "attention_chunk_size", "max_window_layers", "head_dim")
    keys.ignore("num_attention_heads_per_layer", "conv_L_cache", "conv_bias")
    if family.latent and "full" not in order:
        keys.ignore("qk_head_dim", "q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
    shares = keys.per_layer("indexer_types", layers) if family.latent else None
    reused = _reused(keys, layers)
    for i, kind in enumerate(order):
        own = _own(keys, i) if kind in ("full", "window", "chunk") and not family.compressed else {}
        shared = shares is not None and shares[i] == "shared"
        at = (kind, shared, *sorted(own.items()))
        if at not in made:
            made[at] = _mixer(kind, keys, family, hidden, own, shared=shared)
        mixer = made[at]
        found.append(replace(mixer, reused=True) if reused[i] and isinstance(mixer, GroupedQuery) else mixer)
    return found


def _reused(keys: Keys, layers: int) -> list[bool]:
    """Which layers read the keys and values of an earlier one: the last (Gemma), or all but each first of a few."""
    late = keys.number("num_kv_shared_layers", default=0, low=0)
    every = keys.number("cla_share_factor", default=1) if keys.flag("use_cla", default=False) else 1
    keys.ignore("cla_share_factor")
    if late >= layers and late:
        raise InvalidInput(f"{late} of {layers} layers cannot all reuse", where=keys.at("num_kv_shared_layers"))
    return [i >= layers - late or i % every != 0 for i in range(layers)]


def _mixer(kind: str, keys: Keys, family: Family, hidden: int, own: Mapping[str, int], *, shared: bool) -> Attention:
    if kind == "mamba" or (kind == "linear" and _has_states(keys)):
        found = state_space(keys, hidden, family.mixer)
        return replace(found, extra=sum_of(family.state_extra, {}, keys))
    if kind == "conv":
        conv = keys.number("conv_L_cache")
        return ShortConv(width=hidden, conv_width=conv, bias=keys.flag("conv_bias", default=False))
    if kind == "linear":
        return linear(keys, family, hidden)
    if family.compressed:
        return _compressed(keys, kind)
    if family.latent:
        return _latent(keys, family, shared=shared)
    if kind == "window":
        second = _second(keys)
        return second or _grouped(keys, family, hidden, own, window=_window(keys, low=1))
    if kind == "chunk":
        return _grouped(keys, family, hidden, own, window=keys.number("attention_chunk_size"), chunked=True)
    return _grouped(keys, family, hidden, own)


def _has_states(keys: Keys) -> bool:
    """Whether the layers that a file calls linear are state-space mixers."""
    return any(keys.data.get(name) is not None for name in ("mamba_d_state", "ssm_state_size"))


def _own(keys: Keys, layer: int) -> dict[str, int]:
    """Sizes that one layer has for itself."""
    table = keys.get("per_layer_config") or {}
    if not isinstance(table, Mapping) or not all(isinstance(row, Mapping) for row in table.values()):
        raise InvalidInput(f"expected sizes by layer, got {str(table)[:40]!r}", where=keys.at("per_layer_config"))
    # The library writes indices as wide as that of the last layer: '05' of 30.
    by_layer = {str(key).lstrip("0") or "0": row for key, row in table.items()}
    found: dict[str, int] = dict(by_layer.get(str(layer)) or {})
    heads = keys.get("num_attention_heads_per_layer")
    if isinstance(heads, list) and layer < len(heads):
        found["num_attention_heads"] = heads[layer]
    odd = found.keys() - {"head_dim", "num_attention_heads", "num_key_value_heads"}
    if odd or not all(isinstance(size, int) and size > 0 for size in found.values()):
        raise NotModelled(f"{keys.at('per_layer_config')}: {found} of one layer is not modelled")
    return found


def _grouped(
    keys: Keys, family: Family, hidden: int, own: Mapping[str, int], window: int | None = None, *, chunked: bool = False
) -> GroupedQuery:
    apart = keys.maybe("num_sliding_attention_heads")
    heads = own.get("num_attention_heads") or (apart if window is not None else None) or keys.number(*HEADS)
    stated = keys.maybe("head_dim", "attention_head_dim", "kv_channels")
    whole = window is None and not own
    head_dim = own.get("head_dim") or (keys.maybe("global_head_dim") if whole else None) or stated
    if head_dim is None:
        if hidden % heads:
            raise InvalidInput(f"{heads} do not divide hidden_size {hidden}", where=keys.at("num_attention_heads"))
        head_dim = hidden // heads
    kv_heads = own.get("num_key_value_heads") or (keys.maybe("num_global_key_value_heads") if whole else None)
    kv_heads = kv_heads or _kv_heads(keys, heads) * (1 if window is None else family.window_kv)
    keys.ignore("global_head_dim", "num_global_key_value_heads")
    if heads % kv_heads:
        raise InvalidInput(f"{kv_heads} do not divide {heads} heads", where=keys.at("num_key_value_heads"))
    v_dim = keys.maybe("v_head_dim")
    sizes = {"heads": heads, "kv_heads": kv_heads, "head_dim": head_dim, "hidden": hidden}
    wide = (heads + kv_heads - 2) * head_dim if family.qk_norm in ("full", "joint") else 0
    same = keys.flag("attention_k_eq_v", default=False)
    return GroupedQuery(
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        window=window,
        chunked=chunked,
        bias=family.bias,
        out_bias=family.bias if family.out_bias is None else family.out_bias,
        qk_norm=bool(family.qk_norm),
        bare_norm=family.qk_norm == "bare",
        joint_norm=family.qk_norm == "joint",
        output_gate=family.gate in ("full", "apart"),
        head_gate=family.gate == "head",
        v_head_dim=None if v_dim == head_dim else v_dim,
        sinks=keys.flag("add_full_attention_sink_bias", default=family.sinks)
        or (window is not None and family.window_sinks),
        values_are_keys=same and window is None,
        q_lora=keys.maybe("share_q_dim"),
        extra=wide
        - (heads * head_dim if family.bias and family.gate == "apart" else 0)
        + sum_of(family.attention_extra, sizes, keys),
    )


def _kv_heads(keys: Keys, heads: int) -> int:
    """Key-value heads; Falcon and StarCoder say it with two flags of their own."""
    multi_query = keys.get("multi_query")
    new = keys.flag("new_decoder_architecture", default=False)
    stated = keys.maybe(*_KV_HEADS)
    if multi_query is not None and not new:
        return 1 if multi_query else heads
    return stated if stated is not None else heads


def _layout(keys: Keys, family: Family, layers: int) -> list[str]:
    """The kind of each layer: "full", "window", "chunk", "linear" or "mamba"."""
    pattern = keys.maybe("sliding_window_pattern", "_sliding_window_pattern", "global_attn_every_n_layers")
    interval = keys.number("full_attention_interval", "layer_group_size", default=4)
    window = _window(keys)
    ropes = keys.per_layer("no_rope_layers", layers) if keys.get("no_rope_layers") else None
    step = keys.number("no_rope_layer_interval", default=4)
    switched = keys.flag("use_sliding_window", default=family.layout != "switch")
    first = keys.number("max_window_layers", default=0, low=0) if family.layout == "switch" else 0
    if window and window >= keys.number("max_position_embeddings", "n_positions", default=2048):
        window = None  # wider than any context
    listed = _listed(keys, family, layers, windowed=window is not None)
    if listed is not None:
        return listed
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


def _listed(keys: Keys, family: Family, layers: int, *, windowed: bool) -> list[str] | None:
    """Kinds that the file lists layer by layer."""
    names = ("layer_types", "layers_block_type", "attention_layers")
    types = next((found for name in names if (found := keys.per_layer(name, layers))), None)
    hybrid = keys.per_layer("hybrid_layer_pattern", layers)
    lone = keys.per_layer("attn_type_list", layers)
    if lone and any(kind != 1 for kind in lone):
        if family.state != "lightning":
            raise NotModelled(f"{keys.at('attn_type_list')}: lightning attention is not modelled")
        return ["full" if kind else "linear" for kind in lone]
    if family.mixer:
        return ["mamba"] * layers
    ratios = keys.per_layer("compress_ratios", layers)
    if family.compressed and types is None and ratios is not None:
        return [{0: "window", 4: "sparse"}.get(ratio, "heavy") for ratio in ratios]
    if types is not None:
        unknown = next((t for t in types if t not in _KINDS), None)
        if unknown is not None:
            raise NotModelled(f"{keys.at('layer_types')}: {unknown!r} layers are not modelled")
        return ["full" if _KINDS[t] == "window" and not windowed else _KINDS[t] for t in types]
    mixed = _mixed(keys, layers)
    if mixed is None and hybrid is not None:
        return ["window" if flag else "full" for flag in hybrid]
    return mixed


def _window(keys: Keys, *, low: int = 0) -> int | None:
    """Tokens of the window, by the first of its names that stands."""
    name = next((each for each in _WINDOW if keys.data.get(each) is not None), _WINDOW[0])
    keys.ignore(*_WINDOW)
    return (keys.number(name) if low else keys.maybe(name, low=0)) or None


def _mixed(keys: Keys, layers: int) -> list[str] | None:
    """Layers of state-space or linear hybrids that say where their attention is."""
    if isinstance(at := keys.get("full_attn_idxs"), list):
        return ["full" if i in at else "conv" for i in range(layers)]
    at = keys.get("attn_layer_indices")
    if isinstance(at, list) or (keys.data.get("mamba_n_heads") and "attn_layer_indices" in keys.data):
        return ["full" if i in (at or ()) else "mamba" for i in range(layers)]
    period, offset = keys.maybe("attn_layer_period"), keys.number("attn_layer_offset", default=0, low=0)
    if period is not None:
        return ["full" if i % period == offset else "mamba" for i in range(layers)]
    table = keys.get("linear_attn_config")
    if isinstance(table, Mapping) and isinstance(table.get("full_attn_layers"), list):
        return ["full" if i + 1 in table["full_attn_layers"] else "linear" for i in range(layers)]
    return None


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
        window=_window(keys, low=1),
        sinks=keys.flag("add_swa_attention_sink_bias", default=False),
    )


def _compressed(keys: Keys, kind: str) -> Compressed:
    """A layer of DeepSeek-V4: its window alone, or also entries of the compressed context, chosen or all."""
    rates = keys.get("compress_rates")
    rates = rates if isinstance(rates, Mapping) else {}
    name, usual = {
        "sparse": ("compressed_sparse_attention", 4), "heavy": ("heavily_compressed_attention", 128)
    }.get(kind, ("", 0))  # fmt: skip
    sizes = ("index_n_heads", "index_head_dim", "index_topk")
    heads, width, topk = (keys.number(size) for size in sizes)
    return Compressed(
        heads=keys.number(*HEADS),
        head_dim=keys.number("head_dim"),
        q_lora=keys.number("q_lora_rank"),
        o_groups=keys.number("o_groups"),
        o_lora=keys.number("o_lora_rank"),
        window=_window(keys, low=1) or 1,
        ratio=int(rates.get(name, usual)),
        indexer=Indexer(heads=heads, head_dim=width, topk=topk) if kind == "sparse" else None,
    )


def _latent(keys: Keys, family: Family, *, shared: bool) -> Latent:
    """MLA, with DeepSeek's sparse selection where ``index_topk`` stands (DeepSeek-V3.2, GLM-5)."""
    keys.ignore("num_key_value_heads", "head_dim", "qk_head_dim")
    keys.ignore("index_topk_freq", "index_skip_topk_offset", "index_topk_pattern")
    if keys.data.get("indexer_types") is None and keys.data.get("index_topk_freq") not in (None, 1):
        keys.refuse("shared sparse selection without its layers", "index_topk_freq", "each layer selects for itself")
    topk = keys.maybe("index_topk")
    indexer = topk and Indexer(
        heads=keys.number("index_n_heads"),
        head_dim=keys.number("index_head_dim"),
        topk=topk,
        shared=shared,
        pool=keys.number("index_kpool", default=1),
    )
    v_dim = keys.number("v_head_dim")
    return Latent(
        heads=keys.number(*HEADS),
        q_lora=keys.maybe("q_lora_rank"),
        kv_lora=keys.number("kv_lora_rank"),
        nope_dim=keys.number("qk_nope_head_dim"),
        rope_dim=keys.number("qk_rope_head_dim", low=0),
        v_dim=v_dim,
        indexer=indexer or None,
        bias=family.bias,
        gate_dim={"": 0, "head": 1}.get(family.gate, v_dim),
        sinks=family.sinks,
    )
