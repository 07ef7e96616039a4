"""Layers that are told one by one: of Nemotron-H, single mixers and feed-forwards in the order of a pattern, gathered
into whole layers; of Nemotron-NAS, those that an architecture search chose; of Zamba, mixers with a transformer
layer before some of them, whose weights recur.

The pattern has a letter per half layer: M (Mamba-2), * (attention), - (dense feed-forward), E (experts). A mixer and
the feed-forward behind it make a layer; a mixer before another mixer is a layer of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from taicang.errors import InvalidInput, NotModelled
from taicang.models.feedforward import NONE
from taicang.models.keys import Keys
from taicang.models.recurrent import state_space
from taicang.models.types import Attention, Block, Dense, Experts, FeedForward, GroupedQuery

LETTERS = {
    "mamba": "M", "linear_attention": "M", "attention": "*", "full_attention": "*", "mlp": "-", "moe": "E",
}  # fmt: skip


def hybrid_blocks(keys: Keys) -> tuple[tuple[Block, ...], tuple[str, ...]]:
    """Blocks of equal layers (those with attention last, whose kind an MTP layer has), and what was assumed.

    Raises ``NotModelled`` for a feed-forward without a mixer before it, ``InvalidInput`` naming the key.
    """
    key = "layers_block_type" if keys.get("layers_block_type") is not None else "hybrid_override_pattern"
    pattern = _pattern(keys, key)
    if len(pattern) != keys.number("num_hidden_layers", default=len(pattern)):
        raise InvalidInput(f"{len(pattern)} entries contradict num_hidden_layers", where=keys.at(key))
    kinds: dict[str, Attention] = {}
    if "M" in pattern:
        kinds["M"] = state_space(keys, keys.number("hidden_size"))
    if "*" in pattern:
        kinds["*"] = _grouped(keys)
    behind: dict[str, FeedForward] = {}
    if "-" in pattern:
        behind["-"] = Dense(
            inter=keys.number("intermediate_size"), gated=False, bias=keys.flag("mlp_bias", default=False)
        )
    if "E" in pattern:
        behind["E"] = _experts(keys)
    keys.ignore("intermediate_size", "mlp_hidden_act", "mamba_hidden_act", "expand", "time_step_min", "time_step_max")
    keys.ignore("time_step_rank", "time_step_floor", "time_step_limit", "use_mamba_kernels", "use_conv_bias")
    keys.ignore("rescale_prenorm_residual", "residual_in_fp32", "mamba_ssm_cache_dtype", "n_groups", "chunk_size")
    keys.ignore(
        "sliding_window",
        "n_shared_experts",
        "moe_shared_expert_overlap",
        "mtp_hybrid_override_pattern",
        "mtp_layers_block_type",
    )
    counts: dict[Block, int] = {}
    at = 0
    while at < len(pattern):
        mixer, after = pattern[at], pattern[at + 1 : at + 2]
        if mixer not in kinds:
            raise NotModelled(f"{keys.at(key)}: a feed-forward ({mixer!r}) without a mixer before it is not modelled")
        ffn = behind.get(after, NONE)
        block = Block(attention=kinds[mixer], ffn=ffn, count=1, norms=1 if ffn is NONE else 2, extra=_extra(keys, ffn))
        counts[block] = counts.get(block, 0) + 1
        at += 1 if ffn is NONE else 2
    ordered = sorted(counts, key=lambda block: isinstance(block.attention, GroupedQuery))
    said = "a mixer and the feed-forward behind it count as one layer"
    return tuple(Block(attention=b.attention, ffn=b.ffn, count=counts[b], norms=b.norms) for b in ordered), (said,)


RECURRING = (
    "a shared transformer layer and the mixer behind it count as two; the projection between them and the adapters of "
    "its weights count as parameters alone"
)


def recurring_blocks(keys: Keys) -> tuple[tuple[Block, ...], tuple[str, ...]]:
    """Blocks of Zamba: state-space mixers, before some of which one of a few transformer layers stands in turn.

    It sees the hidden width and the embedding, side by side. Raises ``InvalidInput`` naming the key.
    """
    hidden, layers = keys.number("hidden_size"), keys.number("num_hidden_layers")
    kinds = keys.per_layer("layers_block_type", layers) or keys.per_layer("layer_types", layers)
    if kinds is None:
        raise InvalidInput("this key is missing", where=keys.at("layers_block_type"))
    if keys.flag("add_bias_linear", default=False):
        keys.refuse("biases of a shared transformer layer", "add_bias_linear", "left out")
    heads, inter = keys.number("num_attention_heads"), keys.number("intermediate_size", default=4 * hidden)
    times, sets = sum(kind == "hybrid" for kind in kinds), keys.number("num_mem_blocks", default=1)
    rank, wide = keys.number("adapter_rank", default=128), 2 * hidden
    apart = hidden * hidden
    if "num_mem_blocks" in keys.data:  # the second version adapts what recurs, each time in its own way
        apart += (
            rank * (hidden + 2 * inter) + keys.flag("use_shared_attention_adapter", default=False) * 12 * hidden * rank
        )
    attention = GroupedQuery(
        heads=heads,
        kv_heads=keys.maybe("num_key_value_heads") or heads,
        head_dim=keys.number("attention_head_dim", "head_dim", default=wide // heads),
        in_width=wide,
    )
    keys.ignore("attn_layer_period", "attn_layer_offset", "n_mamba_heads", "mamba_headdim", "kv_channels", "ft")
    keys.ignore(
        "num_query_groups", "hybrid_layer_ids", "attention_hidden_size", "use_mem_eff_path", "use_mamba_kernels"
    )
    keys.ignore("use_mem_rope", "use_long_context", "gated_linear_unit", "time_step_min", "time_step_max", "chunk_size")
    keys.ignore(
        "time_step_floor", "time_step_limit", "num_logits_to_keep", "use_shared_mlp_adapter", "hidden_mamba_act"
    )
    mixer = Block(attention=state_space(keys, hidden), ffn=NONE, count=layers, norms=1)
    shared = Block(
        attention=attention, ffn=Dense(inter=inter), count=times, sets=min(sets, times), norms=3, extra=apart
    )
    return (mixer, shared) if times else (mixer,), (RECURRING,)


SEARCHED = "feed-forwards without attention before them count with the layer before, their widths joined"
_UNSEARCHED = ("replace_with_linear", "sparsify", "num_sink_tokens", "unshifted_sink", "moe", "mamba", "llama4",
               "use_prefill_window_in_sink_attention")  # fmt: skip


def searched_blocks(keys: Keys) -> tuple[tuple[Block, ...], tuple[str, ...]]:
    """Blocks of ``block_configs``: each layer has its own groups of heads and width, or lacks either part.

    Raises ``NotModelled`` for a part that is neither attention nor a feed-forward, ``InvalidInput`` naming the key.
    """
    listed, hidden, heads = keys.get("block_configs"), keys.number("hidden_size"), keys.number("num_attention_heads")
    keys.ignore("num_key_value_heads", "intermediate_size")
    where = keys.at("block_configs")
    if not isinstance(listed, list) or len(listed) != keys.number("num_hidden_layers"):
        raise InvalidInput("expected one entry for each of num_hidden_layers", where=where)
    made: list[Block] = []
    for number, each in enumerate(listed):
        parts = [each.get(name) if isinstance(each, Mapping) else None for name in ("attention", "ffn")]
        mixer, ffn = (Keys(part if isinstance(part, Mapping) else {}, where=f"{where}[{number}]") for part in parts)
        for part in (mixer, ffn):
            if odd := next((name for name in _UNSEARCHED if part.data.get(name)), ""):
                raise NotModelled(f"{part.at(odd)}: such layers are not modelled")
        inter = 0 if ffn.data.get("no_op") else ffn.maybe("intermediate_size") or _searched_width(ffn, hidden)
        behind = Dense(inter=inter) if inter else NONE
        if mixer.data.get("no_op"):
            if not made:
                raise NotModelled(f"{mixer.at('no_op')}: a first layer without attention is not modelled")
            joined = Dense(inter=made[-1].ffn.inter + inter) if inter else made[-1].ffn
            made[-1] = replace(made[-1], ffn=joined, norms=made[-1].norms + bool(inter))
            continue
        group = mixer.number("n_heads_in_group")
        if heads % group:
            raise InvalidInput(f"groups of {group} do not divide {heads} heads", where=mixer.at("n_heads_in_group"))
        window = mixer.maybe("window_length")
        attention = GroupedQuery(heads=heads, kv_heads=heads // group, head_dim=hidden // heads, window=window)
        made.append(Block(attention=attention, ffn=behind, count=1, norms=1 + bool(inter)))
    counts = Counter(made)
    return tuple(replace(block, count=count) for block, count in counts.items()), (SEARCHED,)


def _searched_width(ffn: Keys, hidden: int) -> int:
    """Two thirds of so many hidden widths, rounded up to 256."""
    times = ffn.data.get("ffn_mult")
    if isinstance(times, bool) or not isinstance(times, (int, float)) or not 0.0 < times <= 64.0:
        raise InvalidInput(f"expected a multiple of the hidden width, got {times!r}", where=ffn.at("ffn_mult"))
    return -(-int(2 * times * hidden / 3) // 256) * 256


def _extra(keys: Keys, ffn: FeedForward) -> int:
    """Biases of shared experts."""
    width = ffn.shared_inter if isinstance(ffn, Experts) else 0
    return (width + keys.number("hidden_size")) * keys.flag("mlp_bias", default=False) if width else 0


def _pattern(keys: Keys, key: str) -> str:
    value = keys.get(key)
    if isinstance(value, list):
        unknown = next((name for name in value if name not in LETTERS), None)
        if unknown is not None:
            raise NotModelled(f"{keys.at(key)}: {unknown!r} layers are not modelled")
        value = "".join(LETTERS[name] for name in value)
    if not isinstance(value, str) or not value:
        raise InvalidInput(f"expected a pattern of layers, got {value!r}", where=keys.at(key))
    odd = next((letter for letter in value if letter not in LETTERS.values()), None)
    if odd is not None:
        raise NotModelled(f"{keys.at(key)}: {odd!r} layers are not modelled")
    return value


def _grouped(keys: Keys) -> GroupedQuery:
    heads, kv_heads = keys.number("num_attention_heads"), keys.number("num_key_value_heads")
    if heads % kv_heads:
        raise InvalidInput(f"{kv_heads} do not divide {heads} heads", where=keys.at("num_key_value_heads"))
    bias = keys.flag("attention_bias", default=False)
    width = keys.maybe("head_dim", "attention_head_dim") or keys.number("hidden_size") // heads
    return GroupedQuery(heads=heads, kv_heads=kv_heads, head_dim=width, bias=bias, out_bias=bias)


def _experts(keys: Keys) -> Experts:
    groups = keys.number("n_group", default=1)
    return Experts(
        experts=keys.number("n_routed_experts"),
        topk=keys.number("num_experts_per_tok"),
        inter=keys.number("moe_intermediate_size"),
        gated=False,
        shared_inter=keys.number("moe_shared_expert_intermediate_size", default=0, low=0),
        groups=groups,
        topk_groups=keys.number("topk_group", default=groups),
        latent=keys.number("moe_latent_size", default=0, low=0),
    )
