"""Layers of Nemotron-H: single mixers and feed-forwards in the order of a pattern, gathered into whole layers.

The pattern has a letter per half layer: M (Mamba-2), * (attention), - (dense feed-forward), E (experts). A mixer and
the feed-forward behind it make a layer; a mixer before another mixer is a layer of its own.
"""

from __future__ import annotations

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
