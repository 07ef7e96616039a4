"""The feed-forward kind of each layer, from the keys of a configuration."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from taicang.errors import InvalidInput
from taicang.models.families import Family
from taicang.models.keys import Keys
from taicang.models.types import Dense, Experts, FeedForward
from taicang.units import digits

NONE = Dense(inter=0, gated=False)
"""A layer that is its mixer alone."""
_EXPERTS = ("n_routed_experts", "num_experts", "num_local_experts", "moe_num_experts")
_TOPK = (
    "num_experts_per_tok", "experts_per_token", "top_k_experts", "moe_k", "moe_topk", "moe_top_k",
    "num_experts_per_token",
)  # fmt: skip
_INTER = ("moe_intermediate_size", "expert_ffn_hidden_size", "moe_ffn_hidden_size", "expert_intermediate_size")
_WIDTH = (
    "intermediate_size", "ffn_hidden_size", "n_inner", "ffn_dim", "decoder_ffn_dim", "dff", "d_ff", "feed_forward_size",
)  # fmt: skip
_QUADRUPLE = (
    "gpt2", "gptj", "codegen", "gpt_neo", "gpt_bigcode", "bloom", "falcon", "gpt2-megatron", "openai-gpt",
    "RefinedWebModel", "RefinedWeb",
)  # fmt: skip


def feed_forwards(keys: Keys, family: Family, layers: int, hidden: int) -> list[FeedForward]:
    """One feed-forward kind per layer. Raises ``InvalidInput`` naming the key."""
    if family.mixer:
        keys.ignore("intermediate_size")
        return [NONE] * layers
    gated, bias = family.gated, family.ffn_bias
    experts = keys.maybe(*_EXPERTS, low=0)
    if not experts or keys.data.get("enable_moe_block") is False:
        return _without_experts(keys, family, layers, hidden)
    sparse = _sparse(keys, layers)
    topk = _one(keys, *_TOPK)
    idle = keys.number("zero_expert_num", default=0, low=0)
    if topk > experts + idle:
        raise InvalidInput(f"{topk} of only {experts} experts", where=keys.at("num_experts_per_tok"))
    inter = keys.maybe(*_INTER)
    if inter is None:
        inter = (
            keys.number("intermediate_size", "ffn_hidden_size")
            if family.inter_is_experts
            else keys.number("moe_intermediate_size")
        )
    groups = keys.number("n_group", "num_expert_groups", "num_expert_group", default=1)
    beside = keys.flag("enable_moe_block", default=False)  # a dense feed-forward that every token goes through as well
    shared = _width(keys, hidden) if beside else _shared(keys, inter)
    if family.residual and keys.flag("residual_moe", "parallel_attn_mlp_res", default=True):
        shared = keys.number(family.residual)
    if idle:
        topk = max(1, round(topk * experts / (experts + idle)))
        keys.assumptions.append(f"tokens choose zero experts as often as others: {topk} real experts each on average")
    if family.compressed and shared:
        shared = inter  # DeepSeek-V4 has one, whatever the file counts
    moe = Experts(
        experts=experts,
        topk=topk,
        inter=inter,
        gated=gated,
        shared_inter=shared,
        shared_gate=family.shared_gate and bool(keys.data.get("shared_expert_intermediate_size")),
        groups=groups,
        topk_groups=keys.number("topk_group", default=groups),
        bias=family.experts_bias,
        shared_bias=bias and bool(shared),
    )
    keys.ignore("intermediate_size", "intermediate_size_mlp", "mlp_intermediate_size", "dense_intermediate_size")
    keys.ignore("prefix_dense_intermediate_size")
    if all(sparse):
        return [moe] * layers
    apart = keys.maybe("intermediate_size_mlp", "dense_intermediate_size", "prefix_dense_intermediate_size")
    dense = Dense(inter=apart or _width(keys, hidden), gated=gated, bias=bias)
    return [moe if is_moe else dense for is_moe in sparse]


def _without_experts(keys: Keys, family: Family, layers: int, hidden: int) -> list[FeedForward]:
    if family.needs_experts:
        keys.number(*_EXPERTS)
    keys.ignore(*_TOPK, *_INTER, "enable_moe_block", "is_moe", "num_dense_layers", "first_k_dense_replace")
    plain = Dense(inter=1, gated=family.gated, bias=family.ffn_bias)
    if isinstance(keys.data.get("intermediate_size"), list):
        return [replace(plain, inter=width) for width in keys.widths("intermediate_size", layers)]
    width = keys.maybe("shared_intermediate_size", low=0) or _width(keys, hidden) // (1 + family.half_inter)
    late = keys.number("num_kv_shared_layers", default=0, low=0)
    wide = 2 * width if keys.flag("use_double_wide_mlp", default=False) else width
    return [replace(plain, inter=each) for each in [width] * (layers - late) + [wide] * late]


def _one(keys: Keys, *names: str) -> int:
    """A number that may stand as a list of one value for all layers."""
    value = keys.get(*names)
    if isinstance(value, list) and value and all(each == value[0] for each in value) and isinstance(value[0], int):
        return int(value[0])
    return keys.number(*names)


def _width(keys: Keys, hidden: int) -> int:
    width = keys.maybe(*_WIDTH)
    if keys.flag("block_auto_adjust_ff_dim", default=False) and width:  # LFM2: two thirds, rounded up to a multiple
        share = keys.get("block_ffn_dim_multiplier") or 1.0
        step = keys.number("block_multiple_of", default=256)
        return -(-int(share * int(2 * width / 3)) // step) * step
    keys.ignore("block_ffn_dim_multiplier", "block_multiple_of")
    multiple = keys.maybe("intermediate_multiple_size", "expansion_ratio")
    if width is None and (multiple or keys.data.get("model_type") in _QUADRUPLE):
        return (multiple or 4) * hidden  # these families state no width of their own
    return width if width is not None else keys.number("intermediate_size")


def _shared(keys: Keys, inter: int) -> int:
    """Width of the shared experts together."""
    stated = keys.maybe(
        "shared_expert_intermediate_size", "moe_shared_expert_intermediate_size", "shared_intermediate_size",
        "share_expert_dim", low=0,
    )  # fmt: skip
    names = ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts", "num_shared_expert")
    many: Any = keys.get(*names)
    count = _one(keys, *names) if isinstance(many, list) else keys.maybe(*names, low=0)
    if stated is not None:
        return stated * (1 if count is None else count)
    return 0 if count is None else count * inter


def _sparse(keys: Keys, layers: int) -> list[bool]:
    """Which layers hold experts."""
    types = keys.per_layer("mlp_layer_types", layers)
    first = keys.number("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index", default=0, low=0)
    last = keys.number("moe_layer_end_index", default=layers, low=-1)
    lone = keys.get("mlp_only_layers") or []
    if not isinstance(lone, list):
        raise InvalidInput(f"expected a list of layers, got {lone!r}", where=keys.at("mlp_only_layers"))
    step = keys.number("decoder_sparse_step", default=1)
    interleave = keys.number("interleave_moe_layer_step", "moe_layer_interval", default=1)
    period, offset = keys.number("expert_layer_period", default=1), keys.number("expert_layer_offset", default=0, low=0)
    listed = keys.get("moe_layers", "moe_layers_enum")
    if isinstance(listed, str):
        listed = [int(each) for each in listed.split(",") if digits(each.strip())]
    if isinstance(keys.data.get("moe_layer_freq"), list):
        flags = keys.per_layer("moe_layer_freq", layers) or []
        return [bool(flag) for flag in flags]
    freq = keys.number("moe_layer_freq", default=1)
    if types is not None:
        return [kind != "dense" for kind in types]
    if isinstance(listed, list):
        return [i in listed for i in range(layers)]
    end = layers if last < 0 else last
    return [
        first <= i <= end
        and i % freq == 0
        and i not in lone
        and (i + 1) % step == 0
        and (i + 1) % interleave == 0
        and i % period == offset % period
        for i in range(layers)
    ]
